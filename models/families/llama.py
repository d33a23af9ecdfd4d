"""Llama (Touvron et al. 2023): a decoder with RMS norms, rotary positions, gated SiLU and grouped heads.

Reference: ``transformers/models/llama/modeling_llama.py`` of transformers 5.24.0, ``LlamaForCausalLM``.
"""

from __future__ import annotations

from ..config import ModelConfig
from .family import Facts, Family, Fields
from .rotary_decoder import COPIES, DROPPED, KEYS, rotary_decoder


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    attention_bias, mlp_bias = fields.get("attention_bias", bool, False), fields.get("mlp_bias", bool, False)
    fields.only(rope_interleaved=False, is_llama_config=True)  # SmolLM's own, of two values only these are Llama's
    return rotary_decoder(fields, facts, start=1, end=2, attention_bias=attention_bias, feed_forward_bias=mlp_bias)


LLAMA = Family(architectures=("LlamaForCausalLM",), config=_config, keys=KEYS, dropped=DROPPED, copies=COPIES)
