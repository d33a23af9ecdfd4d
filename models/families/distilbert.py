"""DistilBERT (Sanh et al. 2019): BERT's encoder in half as many layers, without segments.

Reference: ``transformers/models/distilbert/modeling_distilbert.py`` of transformers 5.24.0.
"""

from __future__ import annotations

from ..config import ModelConfig, StackConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .heads import architectures, encoder_fields

_LAYER = "transformer.layer.{i}"
_OURS = "encoder.layers.{i}"
_EPSILON = 1e-12  # written out there
KEYS = {
    "embeddings.word_embeddings": "embedding",
    "embeddings.position_embeddings.weight": "positions",
    "embeddings.LayerNorm": "embedding_norm",
    f"{_LAYER}.attention.q_lin": f"{_OURS}.attention.query",
    f"{_LAYER}.attention.k_lin": f"{_OURS}.attention.key",
    f"{_LAYER}.attention.v_lin": f"{_OURS}.attention.value",
    f"{_LAYER}.attention.out_lin": f"{_OURS}.attention.output",
    f"{_LAYER}.sa_layer_norm": f"{_OURS}.attention_residual.norm",
    f"{_LAYER}.ffn.lin1": f"{_OURS}.feed_forward.inner",
    f"{_LAYER}.ffn.lin2": f"{_OURS}.feed_forward.outer",
    f"{_LAYER}.output_layer_norm": f"{_OURS}.feed_forward_residual.norm",
    "pre_classifier": "pooler",
    "classifier": "classifier",
    "qa_outputs": "classifier",
    "vocab_transform": "transform",
    "vocab_layer_norm": "transform_norm",
    "vocab_projector.weight": "vocabulary.weight",
    "vocab_projector.bias": "vocabulary_bias",
}


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, layers = fields.get("dim", int), fields.get("n_layers", int)
    heads, inner = fields.get("n_heads", int), fields.get("hidden_dim", int)
    activation = fields.choice("activation", ACTIVATIONS, "gelu")
    vocabulary, positions = fields.get("vocab_size", int), fields.get("max_position_embeddings", int)
    pad = fields.get("pad_token_id", int, 0)
    fields.only(tie_word_embeddings=True, is_decoder=False)
    for harmless in ("dropout", "qa_dropout", "seq_classif_dropout"):
        fields.get(harmless, (int, float), 0.0)
    fields.get("sinusoidal_pos_embds", bool, False)  # how the table was begun: it is in the file either way
    own = encoder_fields(fields, facts, segments=0, pooler="relu", transform=activation)

    def make() -> ModelConfig:
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            encoder=StackConfig(
                n_layers=layers,
                d_model=width,
                n_heads=heads,
                d_ff=inner,
                activation=activation,
                norm_epsilon=_EPSILON,
            ),
            **own,
        )

    return fields.build(make)


DISTILBERT = Family(
    architectures=architectures("DistilBert"),
    config=_config,
    keys=KEYS,
    optional_prefix="distilbert.",
    dropped=(r"embeddings\.position_ids",),
    copies={"vocabulary.weight": "embedding.weight"},
)
