"""SmolLM3 (Bakouch et al. 2025): Llama some of whose layers have no positions.

Reference: ``transformers/models/smollm3/modeling_smollm3.py`` of transformers 5.24.0, ``SmolLM3ForCausalLM``.
"""

from __future__ import annotations

from typing import Any

from ..config import ModelConfig
from .family import Facts, Family, Fields
from .rotary_decoder import COPIES, DROPPED, KEYS, rotary_decoder
from .windows import windows_of


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    layers = fields.get("num_hidden_layers", int)
    unturned = _unturned(fields, layers)
    on, size = fields.get("use_sliding_window", bool, False), fields.get("sliding_window", int, None)
    fields.ignore("max_window_layers")  # of Qwen2; windows are where positions are not
    return rotary_decoder(
        fields,
        facts,
        start=128000,
        end=128001,
        theta=2e6,
        tied=True,
        attention_bias=fields.get("attention_bias", bool, False),
        feed_forward_bias=fields.get("mlp_bias", bool, False),
        unturned_layers=unturned,
        **windows_of(fields, size if on else None, layers, lambda i: i in unturned),
    )


def _unturned(fields: Fields, layers: Any) -> tuple[int, ...]:
    """Layers with a 0 in ``no_rope_layers``; without the list every ``no_rope_layer_interval``-th."""
    interval, turned = fields.get("no_rope_layer_interval", int, 4), fields.get("no_rope_layers", list, None)
    if not isinstance(layers, int) or not 0 < layers <= 10_000 or not isinstance(interval, int):  # refused elsewhere
        return ()
    if turned is None:
        if interval < 1:
            fields.faults.append(f"no_rope_layer_interval is {interval}, expected a positive number of layers")
            return ()
        turned = [int((i + 1) % interval != 0) for i in range(layers)]
    if len(turned) < layers or any(type(flag) is not int or flag not in (0, 1) for flag in turned):
        fields.faults.append(f"no_rope_layers is {turned!r}, expected 1 or 0 for each of {layers} layers")
        return ()
    return tuple(i for i in range(layers) if not turned[i])


SMOLLM3 = Family(architectures=("SmolLM3ForCausalLM",), config=_config, keys=KEYS, dropped=DROPPED, copies=COPIES)
