"""Rotary positions as Hugging Face's configurations write them.

Reference: ``transformers/modeling_rope_utils.py`` of transformers 5.24.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..config import RopeConfig
from .family import Fields

_ROPE_FIELDS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_positions",
    },
}


def rope_of(fields: Fields) -> Any:
    """What makes the :class:`RopeConfig`, from ``rope_parameters`` or the older ``rope_theta`` and ``rope_scaling``."""
    newer, older = fields.get("rope_parameters", dict, {}), fields.get("rope_scaling", dict, {})
    theta = fields.get("rope_theta", (int, float), None)
    if newer and (older or theta is not None):
        fields.faults.append("rope_parameters stand beside rope_theta or rope_scaling, which they replace")
    given: dict[str, Any] = dict(newer or older or {})
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)  # older files say it twice
    theta = given.pop("rope_theta", theta)
    names: Mapping[str, str] | None = _ROPE_FIELDS.get(kind) if isinstance(kind, str) else None
    if names is None:
        fields.faults.append(f"rope type {kind!r} is not written here, expected {' or '.join(map(repr, _ROPE_FIELDS))}")
    elif given.keys() != names.keys():
        fields.faults.append(f"rope type {kind!r} has {sorted(given)}, expected {sorted(names)}")
    scaling: Any = "none" if kind == "default" else kind
    values = {names[name]: _number(name, value) for name, value in given.items() if names and name in names}
    return lambda: RopeConfig(
        theta=_number("rope_theta", 10000.0 if theta is None else theta), scaling=scaling, **values
    )


def _number(name: str, value: Any) -> Any:
    """JSON writes 8.0 as 8 at times, and a length never as a float."""
    if not isinstance(value, int) or isinstance(value, bool) or name == "original_max_position_embeddings":
        return value
    return float(value) if abs(value) < 2**63 else math.inf  # refused like any other that is not finite
