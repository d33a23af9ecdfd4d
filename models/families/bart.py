"""BART (Lewis et al. 2020): post-norm encoder-decoder with learned positions and a normalization on the embeddings.

Reference: ``transformers/models/bart/modeling_bart.py`` of transformers 5.24.0, ``BartForConditionalGeneration``.
"""

from __future__ import annotations

from torch import Tensor

from ..config import ModelConfig, StackConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .marian import LAYER_KEYS, stack_of

OFFSET = 2
"""Rows of a table of positions that no position reads (``BartLearnedPositionalEmbedding``)."""
KEYS = {
    "model.shared": "embedding",
    "model.encoder.embed_tokens": "encoder.embedding",
    "model.decoder.embed_tokens": "decoder.embedding",
    "model.encoder.embed_positions.weight": "positions",
    "model.decoder.embed_positions.weight": "decoder_positions",
    "model.encoder.layernorm_embedding": "embedding_norm",
    "model.decoder.layernorm_embedding": "decoder_embedding_norm",
    "lm_head": "vocabulary",
    "final_logits_bias": "vocabulary_bias",
    **LAYER_KEYS,
}
_HARMLESS = """
    _num_labels activation_dropout classif_dropout decoder_layerdrop dropout
    early_stopping encoder_layerdrop extra_pos_embeddings force_bos_token_to_be_generated forced_eos_token_id init_std
    length_penalty max_length min_length no_repeat_ngram_size num_beams num_hidden_layers prefix
"""
# How to decode is read elsewhere (.generation); forced_eos_token_id speaks of the last token before a limit, where this
# decoder ends without one.


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, vocabulary = fields.get("d_model", int), fields.get("vocab_size", int)
    stacks = {name: stack_of(fields, name, width) for name in ("encoder", "decoder")}
    activation = fields.choice("activation_function", ACTIVATIONS, "gelu")
    positions, scaled = fields.get("max_position_embeddings", int, 1024), fields.get("scale_embedding", bool, False)
    tied = fields.get("tie_word_embeddings", bool, True)
    pad, start = fields.get("pad_token_id", int, 1), fields.get("decoder_start_token_id", int, 2)
    forced = facts.forced if facts.forced is not None else fields.get("forced_bos_token_id", int, None)
    end = facts.end_id(fields)
    fields.only(is_encoder_decoder=True, is_decoder=False, normalize_before=False, static_position_embeddings=False)
    fields.only(normalize_embedding=True, add_final_layer_norm=False, add_bias_logits=False, forced_bos_token_id=forced)
    fields.ignore(*_HARMLESS.split())
    if len(facts.prefix) != 1 or facts.suffix != (end,):
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected one token before, and "
            f"eos_token_id ({end}) after"
        )
    if facts.suppressed:
        fields.faults.append(f"bad_words_ids hold {facts.suppressed}, expected none")

    def make() -> ModelConfig:
        encoder, decoder = (StackConfig(activation=activation, **stacks[name]) for name in ("encoder", "decoder"))
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=start,
            end_id=end,
            encoder=encoder,
            decoder=decoder,
            positions="learned",
            scale_embeddings=scaled,
            embedding_norm=True,
            decoder_embeddings=True,
            source_start_id=facts.prefix[0],
            forced_id=forced,
            tied=tied,
        )

    return fields.build(make)


def _adapt(name: str, tensor: Tensor, facts: Facts) -> Tensor:
    """The bias, theirs ``(1, V)``, as ``(V,)``; tables of positions without the rows that nothing reads."""
    if name == "vocabulary_bias" and tensor.dim() == 2 and len(tensor) == 1:
        return tensor[0]
    return tensor[OFFSET:] if name in ("positions", "decoder_positions") and tensor.dim() == 2 else tensor


BART = Family(
    architectures=("BartForConditionalGeneration",),
    config=_config,
    keys=KEYS,
    copies={
        "vocabulary.weight": "embedding.weight",
        "encoder.embedding.weight": "embedding.weight",
        "decoder.embedding.weight": "embedding.weight",
    },
    zeros=("vocabulary_bias",),
    adapt=_adapt,
)
