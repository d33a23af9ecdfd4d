"""What Llama and the decoders after it have in common: fields of ``config.json``, and names of tensors.

They differ in some fields of a stack, and in a few more tensors of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..config import ModelConfig, StackConfig
from ..position_config import RopeConfig
from .family import ACTIVATIONS, Facts, Fields
from .rope import longest_of, rope_of

LAYER = "model.layers.{i}"
OURS = "decoder.layers.{i}"
KEYS = {
    "model.embed_tokens": "embedding",
    f"{LAYER}.input_layernorm": f"{OURS}.attention_residual.norm",
    f"{LAYER}.self_attn.q_proj": f"{OURS}.attention.query",
    f"{LAYER}.self_attn.k_proj": f"{OURS}.attention.key",
    f"{LAYER}.self_attn.v_proj": f"{OURS}.attention.value",
    f"{LAYER}.self_attn.o_proj": f"{OURS}.attention.output",
    f"{LAYER}.post_attention_layernorm": f"{OURS}.feed_forward_residual.norm",
    f"{LAYER}.mlp.gate_proj": f"{OURS}.feed_forward.gate",
    f"{LAYER}.mlp.up_proj": f"{OURS}.feed_forward.inner",
    f"{LAYER}.mlp.down_proj": f"{OURS}.feed_forward.outer",
    "model.norm": "decoder.final_norm",
    "lm_head": "vocabulary",
}
DROPPED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)  # computed; old files hold them
COPIES = {"vocabulary.weight": "embedding.weight"}


def rotary_decoder(
    fields: Fields,
    facts: Facts,
    *,
    start: int | None = None,
    end: int | None = None,
    head_dim: int | None = None,
    theta: float = 10000.0,
    tied: bool = False,
    activation: tuple[str, str] = ("hidden_act", "silu"),
    rope: Callable[[], RopeConfig] | None = None,
    network: Callable[[], Mapping[str, Any]] = dict,
    **stack: Any,
) -> ModelConfig:
    """The network of a ``config.json`` whose family has asked for its own fields.

    ``start``, ``end``, ``head_dim``, ``theta`` and ``tied`` are the family's where a file has none; without a start
    token the end token is one (of an empty prompt). ``activation``: the field that names it, and the family's.
    ``rope``: what makes the rotary positions, where they are not in the usual fields. ``network``: what makes other
    fields of the whole, ``stack``: what a family's layers are besides gated, and normalized by RMS before.
    """
    width, layers = fields.get("hidden_size", int), fields.get("num_hidden_layers", int)
    heads = fields.get("num_attention_heads", int)
    kv_heads, inner = fields.get("num_key_value_heads", int, heads), fields.get("intermediate_size", int)
    name, usual = activation
    function = fields.choice(name, ACTIVATIONS, usual)
    epsilon = fields.get("rms_norm_eps", float, 1e-6)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("max_position_embeddings", int)
    tied = fields.get("tie_word_embeddings", bool, tied)
    make_rope = rope_of(fields, theta) if rope is None else rope
    end = facts.end_id(fields, several=True, default=end)
    start = fields.get("bos_token_id", int, end if start is None else start)
    pad = fields.get("pad_token_id", int, end)
    head_dim = fields.get("head_dim", int, head_dim)
    if isinstance(width, int) and isinstance(heads, int) and head_dim is not None and head_dim * heads == width:
        head_dim = None
    adds_start = facts.adds_start(fields, start)

    def make() -> ModelConfig:
        layer: Mapping[str, Any] = {
            "n_layers": layers,
            "d_model": width,
            "n_heads": heads,
            "n_kv_heads": kv_heads,
            "head_dim": head_dim,
            "d_ff": inner,
            "norm": "rms",
            "norm_place": "pre",
            "norm_epsilon": epsilon,
            "activation": function,
            "gated": True,
            **stack,
        }
        turned = make_rope()
        whole: Mapping[str, Any] = {
            "vocab_size": vocabulary,
            "max_positions": longest_of(turned, positions),
            "pad_id": pad,
            "start_id": start,
            "end_id": end,
            "positions": "rotary",
            "rope": turned,
            "scale_embeddings": False,
            "tied": tied,
            "output_bias": False,
            "adds_start": adds_start,
            **network(),
        }
        return ModelConfig(decoder=StackConfig(**layer), **whole)

    return fields.build(make)
