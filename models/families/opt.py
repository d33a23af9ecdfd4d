"""OPT (Zhang et al. 2022): a decoder with learned positions and normalization before each sub-layer, or after it.

Reference: ``transformers/models/opt/modeling_opt.py`` of transformers 5.24.0, ``OPTForCausalLM``. Embeddings of another
width than the layers, which the one of 350 million parameters has, are not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import ModelConfig, StackConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .merges_files import merges_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

OFFSET = 2
"""Rows of its table of positions that no position reads (``OPTLearnedPositionalEmbedding``)."""
_LAYER = "decoder.layers.{i}"


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, layers = fields.get("hidden_size", int), fields.get("num_hidden_layers", int)
    heads, inner = fields.get("num_attention_heads", int), fields.get("ffn_dim", int)
    activation = fields.choice("activation_function", ACTIVATIONS, "relu")
    biased, before = fields.get("enable_bias", bool, True), fields.get("do_layer_norm_before", bool, True)
    bare = fields.get("_remove_final_layer_norm", bool, False)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("max_position_embeddings", int, 2048)
    tied = fields.get("tie_word_embeddings", bool, True)
    start, end = fields.get("bos_token_id", int, 2), facts.end_id(fields, several=True)
    pad = fields.get("pad_token_id", int, 1)
    fields.only(word_embed_proj_dim=width, layer_norm_elementwise_affine=True)
    fields.ignore("dropout", "layerdrop", "init_std", "is_encoder_decoder", "prefix", "activation_dropout")
    adds_start = facts.adds_start(fields, start)

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
                norm_place="pre" if before else "post",
                activation=activation,
                attention_bias=biased,
                feed_forward_bias=biased,
                final_norm=before and not bare,
            ),
            positions="learned",
            scale_embeddings=False,
            tied=tied,
            output_bias=False,
            adds_start=adds_start,
        )

    return fields.build(make)


def _adapt(name: str, tensor: Tensor, facts: Facts) -> Tensor:
    """The table of positions without the rows that nothing reads."""
    return tensor[OFFSET:] if name == "positions" and tensor.ndim == 2 else tensor


OPT = Family(
    architectures=("OPTForCausalLM",),
    config=_config,
    keys={
        "decoder.embed_tokens": "embedding",
        "decoder.embed_positions.weight": "positions",
        f"{_LAYER}.self_attn_layer_norm": f"{_LAYER}.attention_residual.norm",
        f"{_LAYER}.self_attn.q_proj": f"{_LAYER}.attention.query",
        f"{_LAYER}.self_attn.k_proj": f"{_LAYER}.attention.key",
        f"{_LAYER}.self_attn.v_proj": f"{_LAYER}.attention.value",
        f"{_LAYER}.self_attn.out_proj": f"{_LAYER}.attention.output",
        f"{_LAYER}.final_layer_norm": f"{_LAYER}.feed_forward_residual.norm",
        f"{_LAYER}.fc1": f"{_LAYER}.feed_forward.inner",
        f"{_LAYER}.fc2": f"{_LAYER}.feed_forward.outer",
        "decoder.final_layer_norm": "decoder.final_norm",
        "lm_head": "vocabulary",
    },
    optional_prefix="model.",
    adapt=_adapt,
    copies={"vocabulary.weight": "embedding.weight"},
    tokenizer=merges_tokenizer,
)
