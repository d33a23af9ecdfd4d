"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values alone.

Reference: ``transformers/models/qwen2/modeling_qwen2.py`` of transformers 5.24.0, ``Qwen2ForCausalLM``.
"""

from __future__ import annotations

from typing import Any

from ..config import ModelConfig
from .family import Facts, Family, Fields
from .rotary_decoder import COPIES, DROPPED, KEYS, rotary_decoder
from .windows import windows_of


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    fields.only(use_mrope=False)
    return rotary_decoder(fields, facts, attention_output_bias=False, feed_forward_bias=False, **_windows(fields))


def _windows(fields: Fields) -> dict[str, Any]:
    """Off by default; where they are on, the layers from ``max_window_layers`` have one."""
    on, size = fields.get("use_sliding_window", bool, False), fields.nullable("sliding_window", int, 4096)
    first = fields.get("max_window_layers", int, 28) or 0
    return windows_of(fields, size if on else None, fields.get("num_hidden_layers", int), lambda i: i >= first)


QWEN2 = Family(architectures=("Qwen2ForCausalLM",), config=_config, keys=KEYS, dropped=DROPPED, copies=COPIES)
