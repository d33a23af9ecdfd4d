"""RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020): BERT's encoder, its positions counted otherwise.

Position 0 of a text is row ``pad_token_id + 1`` of the table; the rows before it no text reads. Reference:
``modeling_roberta.py`` and ``modeling_xlm_roberta.py`` in ``transformers/models`` of transformers 5.24.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..config import ModelConfig, StackConfig
from .bert import KEYS as BERT_KEYS
from .family import ACTIVATIONS, Facts, Family, Fields
from .heads import architectures, encoder_fields

_BODY = {name: ours for name, ours in BERT_KEYS.items() if name.startswith(("embeddings.", "encoder."))}
KEYS = _BODY | {
    "classifier.dense": "pooler",
    "classifier.out_proj": "classifier",
    "classifier": "classifier",
    "qa_outputs": "classifier",
    "lm_head.dense": "transform",
    "lm_head.layer_norm": "transform_norm",
    "lm_head.decoder": "vocabulary",
    "lm_head.bias": "vocabulary_bias",
}


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, layers = fields.get("hidden_size", int), fields.get("num_hidden_layers", int)
    heads, inner = fields.get("num_attention_heads", int), fields.get("intermediate_size", int)
    activation = fields.choice("hidden_act", ACTIVATIONS, "gelu")
    epsilon = fields.get("layer_norm_eps", float, 1e-12)
    vocabulary, rows = fields.get("vocab_size", int), fields.get("max_position_embeddings", int, 512)
    types, pad = fields.get("type_vocab_size", int, 2), fields.get("pad_token_id", int, 1)
    fields.only(
        position_embedding_type="absolute", is_decoder=False, add_cross_attention=False, tie_word_embeddings=True
    )
    own = encoder_fields(fields, facts, segments=types, pooler="tanh", transform="gelu")

    def make() -> ModelConfig:
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=rows - pad - 1,
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


def _unread_rows(config: ModelConfig) -> Mapping[str, int]:
    return {"positions": config.pad_id + 1}


ROBERTA = Family(
    architectures=architectures("Roberta"),
    config=_config,
    keys=KEYS,
    optional_prefix="roberta.",
    # Old files hold positions and segments of nothing; of the pooler no head makes use, see bert.py.
    dropped=(r"pooler\.dense\.(weight|bias)", r"embeddings\.(position|token_type)_ids"),
    copies={"vocabulary.weight": "embedding.weight", "vocabulary.bias": "vocabulary_bias"},
    unread_rows=_unread_rows,
)
XLM_ROBERTA = replace(ROBERTA, architectures=architectures("XLMRoberta"))
