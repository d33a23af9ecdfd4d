"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values alone.

Reference: ``transformers/models/qwen2/modeling_qwen2.py`` of transformers 5.24.0, ``Qwen2ForCausalLM``.
"""

from __future__ import annotations

from ..config import ModelConfig
from .family import Facts, Family, Fields
from .rotary_decoder import COPIES, DROPPED, KEYS, rotary_decoder


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    fields.only(use_sliding_window=False, use_mrope=False)
    fields.ignore("sliding_window", "max_window_layers", "layer_types")  # of windows, which are off
    return rotary_decoder(fields, facts, attention_output_bias=False, feed_forward_bias=False)


QWEN2 = Family(architectures=("Qwen2ForCausalLM",), config=_config, keys=KEYS, dropped=DROPPED, copies=COPIES)
