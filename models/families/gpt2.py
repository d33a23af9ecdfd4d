"""GPT-2 (Radford et al. 2019): a decoder with learned positions and normalization before each sub-layer.

Reference: ``transformers/models/gpt2/modeling_gpt2.py`` of transformers 5.24.0, ``GPT2LMHeadModel``.
"""

from __future__ import annotations

from ..config import ModelConfig, StackConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .merges_files import merges_tokenizer

_LAYER = "h.{i}"
_OURS = "decoder.layers.{i}"


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, layers, heads = (fields.get(name, int) for name in ("n_embd", "n_layer", "n_head"))
    inner = fields.get("n_inner", int, 4 * (width or 0))
    activation = fields.choice("activation_function", ACTIVATIONS, "gelu_new")
    epsilon = fields.get("layer_norm_epsilon", float, 1e-5)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("n_positions", int)
    tied = fields.get("tie_word_embeddings", bool, True)
    start, end = fields.get("bos_token_id", int, 50256), facts.end_id(fields, several=True, default=50256)
    pad = fields.get("pad_token_id", int, end)
    fields.only(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    # Of training, of other heads, and how products are ordered in half precision.
    fields.ignore("attn_pdrop", "embd_pdrop", "resid_pdrop", "reorder_and_upcast_attn", "is_encoder_decoder", "n_ctx")
    fields.ignore("_num_labels", "output_past", "predict_special_tokens")  # in files of the first releases
    fields.ignore(*(f"summary_{n}" for n in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")))
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
                norm_place="pre",
                activation=activation,
                norm_epsilon=epsilon,
            ),
            positions="learned",
            scale_embeddings=False,
            tied=tied,
            output_bias=False,
            adds_start=adds_start,
        )

    return fields.build(make)


GPT2 = Family(
    architectures=("GPT2LMHeadModel",),
    config=_config,
    keys={
        "wte": "embedding",
        "wpe.weight": "positions",
        f"{_LAYER}.ln_1": f"{_OURS}.attention_residual.norm",
        f"{_LAYER}.attn.c_attn": tuple(f"{_OURS}.attention.{part}" for part in ("query", "key", "value")),
        f"{_LAYER}.attn.c_proj": f"{_OURS}.attention.output",
        f"{_LAYER}.ln_2": f"{_OURS}.feed_forward_residual.norm",
        f"{_LAYER}.mlp.c_fc": f"{_OURS}.feed_forward.inner",
        f"{_LAYER}.mlp.c_proj": f"{_OURS}.feed_forward.outer",
        "ln_f": "decoder.final_norm",
        "lm_head": "vocabulary",
    },
    optional_prefix="transformer.",
    transposed=(r"h\.\d+\..*\.(c_attn|c_proj|c_fc)\.weight",),  # they lie as (in, out)
    dropped=(r"h\.\d+\.attn\.(bias|masked_bias)",),  # masks in old files, which are computed
    copies={"vocabulary.weight": "embedding.weight"},
    tokenizer=merges_tokenizer,
)
