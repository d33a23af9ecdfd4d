"""Mistral (Jiang et al. 2023): Llama whose queries may see a window of the text before them.

A file with ``layer_types`` the library's ``AutoConfig`` reads as one of a ``MinistralForCausalLM``, which differs in
nothing else: they say which layers have the window.

Reference: ``transformers/models/mistral/modeling_mistral.py`` of transformers 5.24.0, ``MistralForCausalLM``.
"""

from __future__ import annotations

from ..config import ModelConfig
from .family import Facts, Family, Fields
from .rotary_decoder import COPIES, DROPPED, KEYS, rotary_decoder
from .windows import windows_of


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    size = fields.nullable("sliding_window", int, 4096)
    windows = windows_of(fields, size, fields.get("num_hidden_layers", int))
    return rotary_decoder(fields, facts, start=1, end=2, attention_bias=False, feed_forward_bias=False, **windows)


MISTRAL = Family(architectures=("MistralForCausalLM",), config=_config, keys=KEYS, dropped=DROPPED, copies=COPIES)
