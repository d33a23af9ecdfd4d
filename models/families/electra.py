"""ELECTRA (Clark et al. 2020): BERT whose embeddings may be narrower than its layers, with each head of its own.

Reference: ``transformers/models/electra/modeling_electra.py`` of transformers 5.24.0. What tells replaced tokens from
others (``ElectraForPreTraining``) is no head here.
"""

from __future__ import annotations

from ..config import ModelConfig, StackConfig
from .bert import KEYS as BERT_KEYS
from .family import ACTIVATIONS, Facts, Family, Fields
from .heads import architectures, encoder_fields

_BODY = {
    name: ours for name, ours in BERT_KEYS.items() if not name.startswith(("pooler.", "classifier", "cls.predictions."))
}
KEYS = _BODY | {
    "embeddings_project": "embedding_projection",
    "classifier.dense": "pooler",
    "classifier.out_proj": "classifier",
    "classifier": "classifier",
    "generator_predictions.dense": "transform",
    "generator_predictions.LayerNorm": "transform_norm",
    "generator_lm_head.weight": "vocabulary.weight",
    "generator_lm_head.bias": "vocabulary_bias",
}


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, embedded = fields.get("hidden_size", int, 256), fields.get("embedding_size", int, 128)
    layers, heads = fields.get("num_hidden_layers", int, 12), fields.get("num_attention_heads", int, 4)
    inner, activation = fields.get("intermediate_size", int, 1024), fields.choice("hidden_act", ACTIVATIONS, "gelu")
    epsilon = fields.get("layer_norm_eps", float, 1e-12)
    vocabulary, positions = fields.get("vocab_size", int), fields.get("max_position_embeddings", int, 512)
    types, pad = fields.get("type_vocab_size", int, 2), fields.get("pad_token_id", int, 0)
    fields.only(
        position_embedding_type="absolute", is_decoder=False, add_cross_attention=False, tie_word_embeddings=True
    )
    fields.ignore(*(f"summary_{n}" for n in ("type", "use_proj", "activation", "last_dropout")))  # of other heads
    own = encoder_fields(fields, facts, segments=types, pooler="gelu", transform="gelu")

    def make() -> ModelConfig:
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            embedding_width=None if embedded == width else embedded,
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


ELECTRA = Family(
    architectures=architectures("Electra"),
    config=_config,
    keys=KEYS,
    optional_prefix="electra.",
    dropped=(r"embeddings\.position_ids", r"discriminator_predictions\..*"),  # the latter tells what was replaced
    copies={"vocabulary.weight": "embedding.weight"},
)
