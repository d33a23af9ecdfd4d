"""mBART (Liu et al. 2020) and mBART-50 (Tang et al. 2020): BART with pre-norm, for many languages.

Reference: ``transformers/models/mbart/modeling_mbart.py`` of transformers 5.24.0, ``MBartForConditionalGeneration``.
"""

from __future__ import annotations

from ..config import ModelConfig, StackConfig
from .bart import BART, KEYS
from .fairseq import HARMLESS, fairseq_languages, fairseq_tokenizer
from .family import ACTIVATIONS, Facts, Family, Fields, with_default_target
from .marian import stack_of


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, vocabulary = fields.get("d_model", int), fields.get("vocab_size", int)
    stacks = {name: stack_of(fields, name, width) for name in ("encoder", "decoder")}
    activation = fields.choice("activation_function", ACTIVATIONS, "gelu")
    positions, scaled = fields.get("max_position_embeddings", int, 1024), fields.get("scale_embedding", bool, False)
    tied, pad = fields.get("tie_word_embeddings", bool, True), fields.get("pad_token_id", int, 1)
    end = facts.end_id(fields)
    start = fields.get("decoder_start_token_id", int, None)
    languages = with_default_target(fields, facts, start)
    fields.only(is_encoder_decoder=True, is_decoder=False, normalize_before=True, static_position_embeddings=False)
    fields.only(normalize_embedding=True, add_final_layer_norm=True, add_bias_logits=False)
    fields.only(force_bos_token_to_be_generated=False)
    fields.ignore(*HARMLESS.split())
    if facts.suppressed:
        fields.faults.append(f"bad_words_ids hold {facts.suppressed}, expected none")

    def make() -> ModelConfig:
        encoder, decoder = (
            StackConfig(activation=activation, norm_place="pre", **stacks[name]) for name in ("encoder", "decoder")
        )
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=end if start is None else start,
            end_id=end,
            encoder=encoder,
            decoder=decoder,
            positions="learned",
            scale_embeddings=scaled,
            embedding_norm=True,
            decoder_embeddings=True,
            languages=languages,
            tied=tied,
        )

    return fields.build(make)


MBART = Family(
    architectures=("MBartForConditionalGeneration",),
    config=_config,
    keys=KEYS | {f"model.{stack}.layer_norm": f"{stack}.final_norm" for stack in ("encoder", "decoder")},
    copies=BART.copies,
    zeros=BART.zeros,
    adapt=BART.adapt,
    tokenizer=fairseq_tokenizer,
    languages=fairseq_languages,
)
