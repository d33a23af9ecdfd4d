"""Rotary positions as Hugging Face's configurations write them.

Reference: ``transformers/modeling_rope_utils.py`` of transformers 5.24.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..config_checks import MOST_WIDTH
from ..position_config import RopeConfig
from .family import Fields

_ORIGINAL = "original_max_position_embeddings"
_NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor", _ORIGINAL),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "yarn": (_ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "attention_factor"),
}


def rope_of(fields: Fields, theta: float = 10000.0) -> Callable[[], RopeConfig]:
    """What makes the :class:`RopeConfig`, from ``rope_parameters`` or the older ``rope_theta`` and ``rope_scaling``.

    ``theta``: that of the family, where the file names none.
    """
    newer, older = fields.get("rope_parameters", dict, {}), fields.get("rope_scaling", dict, {})
    stated = fields.get("rope_theta", (int, float), None)
    if newer and (older or stated is not None):
        fields.faults.append("rope_parameters stand beside rope_theta or rope_scaling, which they replace")
    return rope_from(fields, newer or older or {}, theta if stated is None else stated)


def partial_rope_of(
    fields: Fields, head_dim: Any, share: float, *, share_field: str, theta_field: str = "rope_theta"
) -> Callable[[], RopeConfig]:
    """As :func:`rope_of`, where a ``share`` of the numbers of a head turn, unless the file says otherwise.

    ``share_field`` and ``theta_field`` say so in files older than ``rope_parameters``.
    """
    newer, older = fields.get("rope_parameters", dict, {}), fields.get("rope_scaling", dict, {})
    parameters = dict(newer or older or {})
    if newer and older:
        fields.faults.append("rope_parameters stand beside rope_scaling, which they replace")
    theta = fields.get(theta_field, (int, float), 10000.0)  # what stands in the parameters goes before it
    stated = fields.get(share_field, (int, float), None)
    stated = parameters.pop("partial_rotary_factor", share if stated is None else stated)
    if share_field != "partial_rotary_factor":
        fields.only(partial_rotary_factor=stated)
    if not isinstance(stated, int | float) or isinstance(stated, bool) or not 0 < stated <= 1:
        fields.faults.append(f"{share_field} is {stated!r}, expected a number above 0, and 1 at most")
        return RopeConfig
    if parameters.get("rope_type", parameters.get("type")) == "longrope":
        parameters[_ORIGINAL] = fields.get(_ORIGINAL, int, parameters.get(_ORIGINAL))
    fields.ignore(_ORIGINAL)
    if not 0 < (head_dim or 0) <= MOST_WIDTH:  # refused elsewhere
        return RopeConfig
    make, turned = rope_from(fields, parameters, theta), int(head_dim * stated)
    return lambda: replace(make(), rotary_dim=None if turned == head_dim else turned)


def rope_from(fields: Fields, parameters: Mapping[str, Any], theta: Any) -> Callable[[], RopeConfig]:
    """What makes the :class:`RopeConfig` of one object of parameters; ``theta`` where it names none."""
    given = {name: value for name, value in parameters.items() if value is not None}
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)  # older files say it twice
    theta = _number("rope_theta", given.pop("rope_theta", theta))
    if not isinstance(kind, str) or kind not in _NEEDED:
        fields.faults.append(f"rope type {kind!r} is not written here, expected {' or '.join(map(repr, _NEEDED))}")
        return RopeConfig
    needed, optional = set(_NEEDED[kind]), set(_OPTIONAL.get(kind, ()))
    if not needed <= given.keys() <= needed | optional:
        also = f", and perhaps {sorted(optional)}" if optional else ""
        fields.faults.append(f"rope type {kind!r} has {sorted(given)}, expected {sorted(needed)}{also}")
        return RopeConfig
    values = {name: _number(name, value) for name, value in given.items()}
    if _ORIGINAL in values:
        values["original_positions"] = values.pop(_ORIGINAL)
    if kind == "dynamic":
        return lambda: _dynamic(theta, values["factor"])
    if kind == "longrope":
        return _longrope(fields, theta, values)
    if kind == "yarn":
        values.setdefault("original_positions", fields.get("max_position_embeddings", int))
        values = _with_attention_factor(fields, values)
    return lambda: RopeConfig(theta=theta, scaling="none" if kind == "default" else kind, **values)  # type: ignore[arg-type]


def _dynamic(theta: Any, factor: Any) -> RopeConfig:
    """Frequencies change beyond ``max_position_embeddings``, where nothing is read here; within, they are plain.

    Raises:
        ConfigError: the factor is none.
    """
    return replace(RopeConfig(theta=theta, scaling="linear", factor=factor), scaling="none", factor=1.0)


def _longrope(fields: Fields, theta: Any, values: dict[str, Any]) -> Callable[[], RopeConfig]:
    """The factors of short texts, and what Ding et al. 2024, section 3.3, multiply queries and keys by, unless stated.

    Those of long texts hold beyond ``original_max_position_embeddings``, where nothing is read here.
    """
    short, original = values["short_factor"], values["original_positions"]
    if not isinstance(short, list) or not short:
        fields.faults.append(f"short_factor is {str(short)[:60]}, expected a list of numbers")
        return RopeConfig
    if type(original) is not int or original < 2:
        fields.faults.append(f"{_ORIGINAL} is {original!r}, expected an integer of 2 and more")
        return RopeConfig
    factor, attention = values.get("factor"), values.get("attention_factor")
    if factor is None:
        longest = fields.get("max_position_embeddings", int) or 0
        factor = longest / original if abs(longest) < 2**63 else math.inf
    if not isinstance(factor, float) or not 0 < factor < math.inf:
        fields.faults.append(f"factor is {factor!r}, expected a positive number")
        return RopeConfig
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return lambda: RopeConfig(
        theta=theta,
        scaling="longrope",
        original_positions=original,
        attention_factor=attention,
        short_factors=tuple(_number("short_factor", value) for value in short),
    )


def longest_of(rope: RopeConfig, positions: int) -> int:
    """How many of ``positions`` are read: with ``longrope`` those that the factors of short texts are for."""
    if rope.scaling != "longrope" or rope.original_positions is None:
        return positions
    return min(positions, rope.original_positions)


def _with_attention_factor(fields: Fields, values: dict[str, Any]) -> dict[str, Any]:
    """As stated, or as Peng et al. 2023, section 3.4, recommend, or as DeepSeek's two numbers say."""
    scales = {name: values.pop(name, None) for name in ("mscale", "mscale_all_dim")}
    for name, value in scales.items():
        if value is not None and not (isinstance(value, float) and 0 < value < math.inf):
            fields.faults.append(f"{name} is {value!r}, expected a positive number")
    factor = values["factor"]
    if "attention_factor" in values or fields.faults or not isinstance(factor, float) or not 1 < factor < math.inf:
        return values
    above, below = (1.0, 0.0) if None in scales.values() else scales.values()
    return {**values, "attention_factor": _scale(above, factor) / _scale(below, factor)}


def _scale(strength: float, factor: float) -> float:
    return 0.1 * strength * math.log(factor) + 1


def _number(name: str, value: Any) -> Any:
    """JSON writes 8.0 as 8 at times, and a length never as a float."""
    if not isinstance(value, int) or isinstance(value, bool) or name == _ORIGINAL:
        return value
    return float(value) if abs(value) < 2**63 else math.inf  # refused like any other that is not finite
