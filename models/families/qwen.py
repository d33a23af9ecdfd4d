"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values alone; Qwen3 (Yang et al. 2025):
Llama with heads of any width, whose queries and keys are normalized.

Reference: ``transformers/models/qwen2/modeling_qwen2.py`` of transformers 5.24.0, ``Qwen2ForCausalLM``, and
``models/qwen3/modeling_qwen3.py`` there, ``Qwen3ForCausalLM``.
"""

from __future__ import annotations

from typing import Any

from ..config import ModelConfig
from .family import Facts, Family, Fields
from .rotary_decoder import COPIES, DROPPED, KEYS, LAYER, OURS, rotary_decoder
from .windows import windows_of


def _qwen2(fields: Fields, facts: Facts) -> ModelConfig:
    fields.only(use_mrope=False)
    return rotary_decoder(fields, facts, attention_output_bias=False, feed_forward_bias=False, **_windows(fields))


def _qwen3(fields: Fields, facts: Facts) -> ModelConfig:
    biased = fields.get("attention_bias", bool, False)
    layer = {"attention_bias": biased, "feed_forward_bias": False, "query_key_norm": True}
    return rotary_decoder(fields, facts, head_dim=128, **layer, **_windows(fields))


def _windows(fields: Fields) -> dict[str, Any]:
    """Off by default; where they are on, the layers from ``max_window_layers`` have one."""
    on, size = fields.get("use_sliding_window", bool, False), fields.nullable("sliding_window", int, 4096)
    first = fields.get("max_window_layers", int, 28) or 0
    return windows_of(fields, size if on else None, fields.get("num_hidden_layers", int), lambda i: i >= first)


QWEN2 = Family(architectures=("Qwen2ForCausalLM",), config=_qwen2, keys=KEYS, dropped=DROPPED, copies=COPIES)

QWEN3 = Family(
    architectures=("Qwen3ForCausalLM",),
    config=_qwen3,
    keys={
        **KEYS,
        f"{LAYER}.self_attn.q_norm": f"{OURS}.attention.query_norm",
        f"{LAYER}.self_attn.k_norm": f"{OURS}.attention.key_norm",
    },
    dropped=DROPPED,
    copies=COPIES,
)
