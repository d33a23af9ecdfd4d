"""GPT-2 (Radford et al. 2019) for edgewise: ``edgewise export FOLDER -o BUNDLE --family gpt2_family.py``.

Reference: ``transformers/models/gpt2/modeling_gpt2.py`` of transformers 5.24.0, ``GPT2LMHeadModel``.
"""

from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.families import ACTIVATIONS, Facts, Family, Fields


def config(fields: Fields, facts: Facts) -> ModelConfig:
    """The network that ``config.json`` describes; every field of it is asked for, or refused by name."""
    width, layers, heads = (fields.get(name, int) for name in ("n_embd", "n_layer", "n_head"))
    inner = fields.get("n_inner", int, 4 * (width or 0))
    activation = fields.choice("activation_function", ACTIVATIONS, "gelu_new")
    epsilon = fields.get("layer_norm_epsilon", float, 1e-5)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("n_positions", int)
    tied = fields.get("tie_word_embeddings", bool, True)
    start, end = fields.get("bos_token_id", int, 50256), facts.end_id(fields)
    # Mathematics that the reference network does not have: refused unless it is switched off.
    fields.only(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    # What changes nothing in a finished network.
    fields.ignore("attn_pdrop", "embd_pdrop", "resid_pdrop", "reorder_and_upcast_attn", "is_encoder_decoder")
    fields.ignore(*(f"summary_{n}" for n in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")))

    def make() -> ModelConfig:
        stack = StackConfig(
            n_layers=layers,
            d_model=width,
            n_heads=heads,
            d_ff=inner,
            norm_place="pre",
            activation=activation,
            norm_epsilon=epsilon,
        )
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=end,
            start_id=start,
            end_id=end,
            decoder=stack,
            positions="learned",
            scale_embeddings=False,
            tied=tied,
            output_bias=False,
            adds_start=bool(facts.prefix),
        )

    return fields.build(make)


THEIRS, OURS = "h.{i}", "decoder.layers.{i}"
FAMILY = Family(
    architectures=("GPT2LMHeadModel",),
    config=config,
    keys={
        "wte": "embedding",
        "wpe.weight": "positions",
        f"{THEIRS}.ln_1": f"{OURS}.attention_residual.norm",
        # One matrix for queries, keys and values: it is cut into three.
        f"{THEIRS}.attn.c_attn": tuple(f"{OURS}.attention.{part}" for part in ("query", "key", "value")),
        f"{THEIRS}.attn.c_proj": f"{OURS}.attention.output",
        f"{THEIRS}.ln_2": f"{OURS}.feed_forward_residual.norm",
        f"{THEIRS}.mlp.c_fc": f"{OURS}.feed_forward.inner",
        f"{THEIRS}.mlp.c_proj": f"{OURS}.feed_forward.outer",
        "ln_f": "decoder.final_norm",
        "lm_head": "vocabulary",
    },
    optional_prefix="transformer.",
    transposed=(r"h\.\d+\..*\.(c_attn|c_proj|c_fc)\.weight",),  # they lie as (in, out)
    dropped=(r"h\.\d+\.attn\.(bias|masked_bias)",),  # masks in old files, which are computed
    copies={"vocabulary.weight": "embedding.weight"},
)
