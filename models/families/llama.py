"""Llama (Touvron et al. 2023): a decoder with RMS norms, rotary positions, gated SiLU and grouped heads.

Reference: ``transformers/models/llama/modeling_llama.py`` of transformers 5.24.0, ``LlamaForCausalLM``; rotary scaling
from ``transformers/modeling_rope_utils.py`` there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..config import ModelConfig, RopeConfig, StackConfig
from .family import ACTIVATIONS, Facts, Family, Fields

_LAYER = "model.layers.{i}"
_OURS = "decoder.layers.{i}"
KEYS = {
    "model.embed_tokens": "embedding",
    f"{_LAYER}.input_layernorm": f"{_OURS}.attention_residual.norm",
    f"{_LAYER}.self_attn.q_proj": f"{_OURS}.attention.query",
    f"{_LAYER}.self_attn.k_proj": f"{_OURS}.attention.key",
    f"{_LAYER}.self_attn.v_proj": f"{_OURS}.attention.value",
    f"{_LAYER}.self_attn.o_proj": f"{_OURS}.attention.output",
    f"{_LAYER}.post_attention_layernorm": f"{_OURS}.feed_forward_residual.norm",
    f"{_LAYER}.mlp.gate_proj": f"{_OURS}.feed_forward.gate",
    f"{_LAYER}.mlp.up_proj": f"{_OURS}.feed_forward.inner",
    f"{_LAYER}.mlp.down_proj": f"{_OURS}.feed_forward.outer",
    "model.norm": "decoder.final_norm",
    "lm_head": "vocabulary",
}


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, layers = fields.get("hidden_size", int), fields.get("num_hidden_layers", int)
    heads = fields.get("num_attention_heads", int)
    kv_heads, inner = fields.get("num_key_value_heads", int, heads), fields.get("intermediate_size", int)
    activation = fields.choice("hidden_act", ACTIVATIONS, "silu")
    epsilon = fields.get("rms_norm_eps", float, 1e-6)
    attention_bias, mlp_bias = fields.get("attention_bias", bool, False), fields.get("mlp_bias", bool, False)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("max_position_embeddings", int)
    tied = fields.get("tie_word_embeddings", bool, False)
    rope = rope_of(fields)
    start, end = fields.get("bos_token_id", int, 1), facts.end_id(fields, several=True)
    fields.only(rope_interleaved=False, is_llama_config=True)  # SmolLM's own, of two values only these are Llama's
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        fields.only(head_dim=width // heads)
    if facts.suffix or facts.prefix not in ((), (start,)):
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected bos_token_id "
            f"({start}) or nothing before, and nothing after"
        )
    pad = fields.get("pad_token_id", int, end)

    def make() -> ModelConfig:
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=start,
            end_id=end,
            decoder=StackConfig(
                n_layers=layers,
                d_model=width,
                n_heads=heads,
                d_ff=inner,
                norm_place="pre",
                activation=activation,
                norm_epsilon=epsilon,
                norm="rms",
                gated=True,
                n_kv_heads=kv_heads,
                attention_bias=attention_bias,
                feed_forward_bias=mlp_bias,
            ),
            positions="rotary",
            rope=rope(),
            scale_embeddings=False,
            tied=tied,
            output_bias=False,
            adds_start=bool(facts.prefix),
        )

    return fields.build(make)


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


LLAMA = Family(
    architectures=("LlamaForCausalLM",),
    config=_config,
    keys=KEYS,
    dropped=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # computed; old files hold them
    copies={"vocabulary.weight": "embedding.weight"},
)
