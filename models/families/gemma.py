"""Gemma 2 and the text model of Gemma 3 (Gemma Team 2024 and 2025): norms around sub-layers, layers with windows.

Reference: ``transformers/models/gemma2/modeling_gemma2.py`` of transformers 5.24.0, ``Gemma2ForCausalLM``, and
``models/gemma3/modeling_gemma3.py`` there, ``Gemma3ForCausalLM``.

Embeddings are multiplied by ``sqrt(hidden_size)`` in float32, as the library and llama.cpp do in that precision; in
bfloat16, in which the checkpoints were trained, that number would be rounded first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig
from ..position_config import RopeConfig
from .family import Facts, Family, Fields
from .rope import rope_from, rope_of
from .rotary_decoder import COPIES, DROPPED, KEYS, LAYER, OURS, rotary_decoder
from .windows import FULL, SLIDING, windows_of

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 2**63  # what a number of a configuration is below
_GLOBAL_THETA, _LOCAL_THETA = 1e6, 1e4


def _gemma2(fields: Fields, facts: Facts) -> ModelConfig:
    cap = fields.nullable("attn_logit_softcapping", (int, float), 50.0)
    windows = _windows(fields, lambda i: i % 2 == 0)
    network = _network(fields, 30.0)
    return rotary_decoder(fields, facts, network=network, attention_cap=_float(cap), **_common(fields), **windows)


def _gemma3(fields: Fields, facts: Facts) -> ModelConfig:
    fields.only(attn_logit_softcapping=None)  # the library would read it, and do nothing
    pattern = fields.get("sliding_window_pattern", int, 6)
    fields.ignore("_sliding_window_pattern")  # written beside layer_types, and never read
    if isinstance(pattern, int) and pattern < 1:
        fields.faults.append(f"sliding_window_pattern is {pattern}, expected a positive number of layers")
        pattern = 1
    windows = _windows(fields, lambda i: (i + 1) % pattern != 0)
    whole, near = _ropes(fields)
    network = _network(fields, None, near if windows else None)
    return rotary_decoder(fields, facts, rope=whole, network=network, query_key_norm=True, **_common(fields), **windows)


def _common(fields: Fields) -> dict[str, Any]:
    """What both are besides a decoder with rotary positions."""
    fields.only(use_bidirectional_attention=False)
    fields.ignore("hidden_act", "cache_implementation")  # another field names the activation
    head_dim = fields.get("head_dim", int, 256)
    scalar = fields.get("query_pre_attn_scalar", (int, float), 256)
    if scalar is not None and scalar <= 0:
        fields.faults.append(f"query_pre_attn_scalar is {scalar!r}, expected a positive number")
        scalar = None
    return {
        "start": 2,
        "end": 1,
        "head_dim": 256,
        "tied": True,
        "activation": ("hidden_activation", "gelu_pytorch_tanh"),
        "norm_place": "sandwich",
        "attention_scale": None if scalar in (None, head_dim) else _float(scalar) ** -0.5,
        "attention_bias": fields.get("attention_bias", bool, False),
        "feed_forward_bias": False,
    }


def _windows(fields: Fields, slides: Callable[[int], bool]) -> dict[str, Any]:
    size = fields.nullable("sliding_window", int, 4096)
    return windows_of(fields, size, fields.get("num_hidden_layers", int), slides, always=True)


def _network(
    fields: Fields, usual_cap: float | None, near: Callable[[], RopeConfig] | None = None
) -> Callable[[], dict[str, Any]]:
    cap = fields.nullable("final_logit_softcapping", (int, float), usual_cap)

    def make() -> dict[str, Any]:
        return {
            "scale_embeddings": True,
            "logit_cap": _float(cap),
            "window_rope": None if near is None else near(),
        }

    return make


def _ropes(fields: Fields) -> tuple[Callable[[], RopeConfig], Callable[[], RopeConfig]]:
    """Positions of layers that see all, and of those that see a window: two objects, or fields as older files have."""
    nested = fields.get("rope_parameters", dict, {})
    local = fields.get("rope_local_base_freq", (int, float), None)
    if not nested:
        near = {} if local is None else {"rope_theta": local}
        return rope_of(fields, _GLOBAL_THETA), rope_from(fields, near, _LOCAL_THETA)
    fields.only(rope_theta=None, rope_scaling=None, rope_local_base_freq=None)
    kinds = {kind: nested.get(kind) or {} for kind in (FULL, SLIDING)}
    if nested.keys() - kinds.keys() or not all(isinstance(value, dict) for value in kinds.values()):
        fields.faults.append(f"rope_parameters is {nested!r}, expected an object for {FULL!r} and one for {SLIDING!r}")
        return RopeConfig, RopeConfig
    return rope_from(fields, kinds[FULL], _GLOBAL_THETA), rope_from(fields, kinds[SLIDING], _LOCAL_THETA)


def _float(value: Any) -> Any:
    """An integer as a number; one that is none is refused as what is not finite is."""
    if type(value) is not int:
        return value
    return float(value) if abs(value) < _MOST else math.inf


def _adapt(name: str, tensor: Tensor, facts: Facts) -> Tensor:
    """Norms multiply by one more than what is stored; in float32, since bfloat16 would round the sum."""
    return tensor.float() + 1 if "norm" in name else tensor


_NORMS = {
    f"{LAYER}.post_attention_layernorm": f"{OURS}.attention_residual.branch_norm",
    f"{LAYER}.pre_feedforward_layernorm": f"{OURS}.feed_forward_residual.norm",
    f"{LAYER}.post_feedforward_layernorm": f"{OURS}.feed_forward_residual.branch_norm",
}
_HEAD_NORMS = {
    f"{LAYER}.self_attn.q_norm": f"{OURS}.attention.query_norm",
    f"{LAYER}.self_attn.k_norm": f"{OURS}.attention.key_norm",
}
GEMMA2 = Family(
    architectures=("Gemma2ForCausalLM",),
    config=_gemma2,
    keys={**KEYS, **_NORMS},
    dropped=DROPPED,
    copies=COPIES,
    adapt=_adapt,
)
GEMMA3 = Family(
    architectures=("Gemma3ForCausalLM",),
    config=_gemma3,
    keys={**KEYS, **_NORMS, **_HEAD_NORMS},
    dropped=DROPPED,
    copies=COPIES,
    adapt=_adapt,
)
