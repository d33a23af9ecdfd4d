"""OPT (Zhang et al. 2022) for edgewise: ``edgewise export FOLDER -o BUNDLE --family opt_family.py``.

Reference: ``transformers/models/opt/modeling_opt.py`` of transformers 5.24.0, ``OPTForCausalLM``.
"""

from torch import Tensor

from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.families import ACTIVATIONS, Facts, Family, Fields


def config(fields: Fields, facts: Facts) -> ModelConfig:
    """The network that ``config.json`` describes; every field of it is asked for, or refused by name."""
    width, layers = fields.get("hidden_size", int), fields.get("num_hidden_layers", int)
    heads, inner = fields.get("num_attention_heads", int), fields.get("ffn_dim", int)
    activation = fields.choice("activation_function", ACTIVATIONS, "relu")
    biased = fields.get("enable_bias", bool, True)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("max_position_embeddings", int)
    tied = fields.get("tie_word_embeddings", bool, True)
    start, end = fields.get("bos_token_id", int, 2), facts.end_id(fields)
    pad = fields.get("pad_token_id", int, 1)
    # Mathematics that the reference network does not have, or not here: refused unless it is switched off.
    fields.only(do_layer_norm_before=True, _remove_final_layer_norm=False, layer_norm_elementwise_affine=True)
    fields.only(word_embed_proj_dim=width)
    # What changes nothing in a finished network.
    fields.ignore("dropout", "layerdrop", "init_std", "is_encoder_decoder", "prefix", "activation_dropout")
    adds_start = facts.adds_start(fields, start)

    def make() -> ModelConfig:
        stack = StackConfig(
            n_layers=layers,
            d_model=width,
            n_heads=heads,
            d_ff=inner,
            norm_place="pre",
            activation=activation,
            attention_bias=biased,
            feed_forward_bias=biased,
        )
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=start,
            end_id=end,
            decoder=stack,
            positions="learned",
            scale_embeddings=False,
            tied=tied,
            output_bias=False,
            adds_start=adds_start,
        )

    return fields.build(make)


def adapt(name: str, tensor: Tensor, facts: Facts) -> Tensor:
    """Their table of positions begins with two rows that no text reads."""
    return tensor[2:] if name == "positions" else tensor


THEIRS, OURS = "decoder.layers.{i}", "decoder.layers.{i}"
FAMILY = Family(
    architectures=("OPTForCausalLM",),
    config=config,
    keys={
        "decoder.embed_tokens": "embedding",
        "decoder.embed_positions.weight": "positions",
        f"{THEIRS}.self_attn_layer_norm": f"{OURS}.attention_residual.norm",
        f"{THEIRS}.self_attn.q_proj": f"{OURS}.attention.query",
        f"{THEIRS}.self_attn.k_proj": f"{OURS}.attention.key",
        f"{THEIRS}.self_attn.v_proj": f"{OURS}.attention.value",
        f"{THEIRS}.self_attn.out_proj": f"{OURS}.attention.output",
        f"{THEIRS}.final_layer_norm": f"{OURS}.feed_forward_residual.norm",
        f"{THEIRS}.fc1": f"{OURS}.feed_forward.inner",
        f"{THEIRS}.fc2": f"{OURS}.feed_forward.outer",
        "decoder.final_layer_norm": "decoder.final_norm",
        "lm_head": "vocabulary",
    },
    optional_prefix="model.",
    adapt=adapt,
    copies={"vocabulary.weight": "embedding.weight"},  # one matrix, which some files hold under both names
)
