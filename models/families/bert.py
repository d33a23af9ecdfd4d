"""BERT (Devlin et al. 2019) as sentence-transformers use it: the encoder without its heads, its states pooled.

Reference: ``transformers/models/bert/modeling_bert.py`` of transformers 5.24.0, ``BertModel``.
"""

from __future__ import annotations

from ..config import ModelConfig, StackConfig
from .family import ACTIVATIONS, Facts, Family, Fields

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
    if facts.pooling is None:
        fields.faults.append("nothing says how states become one vector: expected a modules.json with a Pooling")
    if len(facts.prefix) != 1 or len(facts.suffix) != 1:
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected one token each"
        )

    def make() -> ModelConfig:
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=facts.prefix[0],
            end_id=facts.suffix[0],
            encoder=StackConfig(
                n_layers=layers,
                d_model=width,
                n_heads=heads,
                d_ff=inner,
                activation=activation,
                norm_epsilon=epsilon,
            ),
            head="embedding",
            positions="learned",
            scale_embeddings=False,
            token_types=types,
            embedding_norm=True,
            pooling=facts.pooling,
            normalize=facts.normalize,
            adds_start=True,
        )

    return fields.build(make)


BERT = Family(
    architectures=("BertModel",),
    config=_config,
    keys=KEYS,
    optional_prefix="bert.",
    # The pooler (tanh of a dense layer over the first state) is no part of any pooling read here; old files hold the
    # numbers 0, 1, 2, ... as positions.
    dropped=(r"pooler\.dense\.(weight|bias)", r"embeddings\.position_ids"),
)
