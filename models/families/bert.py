"""BERT (Devlin et al. 2019): the encoder with each of its heads, or with its states pooled by sentence-transformers.

Reference: ``transformers/models/bert/modeling_bert.py`` of transformers 5.24.0.
"""

from __future__ import annotations

from ..config import ModelConfig, StackConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .heads import architectures, encoder_fields

_LAYER = "encoder.layer.{i}"
_OURS = "encoder.layers.{i}"
KEYS = {
    "embeddings.word_embeddings": "embedding",
    "embeddings.position_embeddings.weight": "positions",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "embedding_norm",
    f"{_LAYER}.attention.self.query": f"{_OURS}.attention.query",
    f"{_LAYER}.attention.self.key": f"{_OURS}.attention.key",
    f"{_LAYER}.attention.self.value": f"{_OURS}.attention.value",
    f"{_LAYER}.attention.output.dense": f"{_OURS}.attention.output",
    f"{_LAYER}.attention.output.LayerNorm": f"{_OURS}.attention_residual.norm",
    f"{_LAYER}.intermediate.dense": f"{_OURS}.feed_forward.inner",
    f"{_LAYER}.output.dense": f"{_OURS}.feed_forward.outer",
    f"{_LAYER}.output.LayerNorm": f"{_OURS}.feed_forward_residual.norm",
    "pooler.dense": "pooler",
    "classifier": "classifier",
    "qa_outputs": "classifier",
    "cls.predictions.transform.dense": "transform",
    "cls.predictions.transform.LayerNorm": "transform_norm",
    "cls.predictions.decoder": "vocabulary",
    "cls.predictions.bias": "vocabulary_bias",
}


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, layers = fields.get("hidden_size", int), fields.get("num_hidden_layers", int)
    heads, inner = fields.get("num_attention_heads", int), fields.get("intermediate_size", int)
    activation = fields.choice("hidden_act", ACTIVATIONS, "gelu")
    epsilon = fields.get("layer_norm_eps", float, 1e-12)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("max_position_embeddings", int)
    types, pad = fields.get("type_vocab_size", int, 2), fields.get("pad_token_id", int, 0)
    fields.only(
        position_embedding_type="absolute", is_decoder=False, add_cross_attention=False, tie_word_embeddings=True
    )
    own = encoder_fields(fields, facts, segments=types, pooler="tanh", transform=activation)

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
                norm_epsilon=epsilon,
            ),
            **own,
        )

    return fields.build(make)


BERT = Family(
    architectures=architectures("Bert"),
    config=_config,
    keys=KEYS,
    optional_prefix="bert.",
    # The pooler (tanh of a dense layer over the first state) is read before classes only; what tells whether one
    # sentence follows another stands beside the masked words of the original; old files hold 0, 1, 2, ... as positions.
    dropped=(r"pooler\.dense\.(weight|bias)", r"cls\.seq_relationship\.(weight|bias)", r"embeddings\.position_ids"),
    copies={"vocabulary.weight": "embedding.weight", "vocabulary.bias": "vocabulary_bias"},
)
