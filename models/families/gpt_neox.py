"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023): attention and feed-forward side by side.

A part of every head turns with the positions. Which numbers of a head make a pair is a matter of their order, which
scores do not depend on: rows of queries and keys are put so that a whole head can turn, most of it by no angle.

Reference: ``transformers/models/gpt_neox/modeling_gpt_neox.py`` of transformers 5.24.0, ``GPTNeoXForCausalLM``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config import ModelConfig, StackConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .rope import longest_of, partial_rope_of

if TYPE_CHECKING:
    from torch import Tensor

_LAYER, _OURS = "layers.{i}", "decoder.layers.{i}"
_FUSED = re.compile(r"(gpt_neox\.)?layers\.\d{1,4}\.attention\.query_key_value\.(weight|bias)")


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, layers = fields.get("hidden_size", int), fields.get("num_hidden_layers", int)
    heads, inner = fields.get("num_attention_heads", int), fields.get("intermediate_size", int)
    activation = fields.choice("hidden_act", ACTIVATIONS, "gelu")
    epsilon, biased = fields.get("layer_norm_eps", float, 1e-5), fields.get("attention_bias", bool, True)
    parallel, tied = fields.get("use_parallel_residual", bool, True), fields.get("tie_word_embeddings", bool, False)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("max_position_embeddings", int, 2048)
    head_dim = width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None
    rope = partial_rope_of(fields, head_dim, 0.25, share_field="rotary_pct", theta_field="rotary_emb_base")
    start, end = fields.get("bos_token_id", int, 0), facts.end_id(fields, several=True)
    pad = fields.get("pad_token_id", int, end)
    fields.only(is_decoder=False)
    fields.ignore("hidden_dropout", "rope_theta")  # the latter repeats rotary_emb_base
    adds_start = facts.adds_start(fields, start)

    def make() -> ModelConfig:
        turned = rope()
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=longest_of(turned, positions),
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
                attention_bias=biased,
                parallel=parallel,
            ),
            positions="rotary",
            rope=turned,
            scale_embeddings=False,
            tied=tied,
            output_bias=False,
            adds_start=adds_start,
        )

    return fields.build(make)


def turned_rows(head_dim: int, rotary_dim: int) -> list[int]:
    """Where the rows of a head lie in a file whose first ``rotary_dim`` rows turn, in halves: their halves go apart."""
    half, pairs = rotary_dim // 2, head_dim // 2
    still = list(range(rotary_dim, head_dim))
    return [*range(half), *still[: pairs - half], *range(half, rotary_dim), *still[pairs - half :]]


def _prepared(tensors: Mapping[str, Tensor], config: ModelConfig) -> Mapping[str, Tensor]:
    """Queries of all heads, then keys, then values: theirs are head by head."""
    assert config.decoder is not None and config.rope is not None
    heads, head_dim = config.decoder.n_heads, config.decoder.head_width
    rows = turned_rows(head_dim, config.rope.rotary_dim or head_dim)

    def sorted_rows(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or tensor.shape[0] != 3 * heads * head_dim:
            return tensor  # refused where its shape is compared
        parts = tensor.reshape(heads, 3, head_dim, *tensor.shape[1:]).transpose(0, 1).clone()  # (3, H, Dh, ...)
        parts[:2] = parts[:2, :, rows]
        return parts.reshape(tensor.shape)

    return {name: sorted_rows(t) if _FUSED.fullmatch(name) else t for name, t in tensors.items()}


GPT_NEOX = Family(
    architectures=("GPTNeoXForCausalLM",),
    config=_config,
    keys={
        "embed_in": "embedding",
        f"{_LAYER}.input_layernorm": f"{_OURS}.attention_residual.norm",
        f"{_LAYER}.attention.query_key_value": tuple(f"{_OURS}.attention.{part}" for part in ("query", "key", "value")),
        f"{_LAYER}.attention.dense": f"{_OURS}.attention.output",
        f"{_LAYER}.post_attention_layernorm": f"{_OURS}.feed_forward_residual.norm",
        f"{_LAYER}.mlp.dense_h_to_4h": f"{_OURS}.feed_forward.inner",
        f"{_LAYER}.mlp.dense_4h_to_h": f"{_OURS}.feed_forward.outer",
        "final_layer_norm": "decoder.final_norm",
        "embed_out": "vocabulary",
    },
    optional_prefix="gpt_neox.",
    dropped=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),  # masks and angles, computed
    copies={"vocabulary.weight": "embedding.weight"},
    prepared=_prepared,
)
