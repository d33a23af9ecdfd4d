"""Pegasus (Zhang et al. 2020), which summarizes: the paper's encoder-decoder with pre-norm and its positions in halves.

Reference: ``transformers/models/pegasus/modeling_pegasus.py`` of transformers 5.24.0,
``PegasusForConditionalGeneration``; the ids of pieces as ``tokenization_pegasus.py`` of 4.57.1 numbers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import TokenizerError
from ..config import ModelConfig, StackConfig
from ..files import TOKENIZER, read_json
from ..sentencepiece.model import read_model
from ..sentencepiece.tokenizer import tokenizer_json
from .bart import BART
from .fairseq import HARMLESS
from .family import ACTIVATIONS, Facts, Family, Fields
from .marian import LAYER_KEYS, TOKENIZER_CONFIG, stack_of

PIECES = "spiece.model"
OFFSET = 103
"""How far the ids are from those of the pieces: between are tokens that only its training had."""
_OWN = ["<pad>", "</s>", "<unk>"]  # the first pieces of the model
_MASKS = ["<mask_1>", "<mask_2>"]
_MOST = 10_000


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, vocabulary = fields.get("d_model", int), fields.get("vocab_size", int)
    stacks = {name: stack_of(fields, name, width) for name in ("encoder", "decoder")}
    activation = fields.choice("activation_function", ACTIVATIONS, "gelu")
    positions, scaled = fields.get("max_position_embeddings", int, 1024), fields.get("scale_embedding", bool, False)
    tied, pad = fields.get("tie_word_embeddings", bool, True), fields.get("pad_token_id", int, 0)
    start, end = fields.get("decoder_start_token_id", int, pad), facts.end_id(fields, default=1)
    fields.only(is_encoder_decoder=True, is_decoder=False, normalize_before=True, normalize_embedding=False)
    fields.only(add_final_layer_norm=True, add_bias_logits=False, static_position_embeddings=True)
    fields.only(force_bos_token_to_be_generated=False, do_blenderbot_90_layernorm=False, forced_bos_token_id=None)
    fields.ignore("min_length", "no_repeat_ngram_size", *HARMLESS.split())
    if facts.prefix or facts.suffix not in ((), (end,)):
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected nothing before, and "
            f"eos_token_id ({end}) or nothing after"
        )
    for name, found in (("bad_words_ids", facts.suppressed), ("forced_bos_token_id", facts.forced)):
        if found not in ((), None):
            fields.faults.append(f"{name} is {found}, expected none")

    def make() -> ModelConfig:
        encoder, decoder = (
            StackConfig(activation=activation, norm_place="pre", **stacks[name]) for name in ("encoder", "decoder")
        )
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=start,
            end_id=end,
            encoder=encoder,
            decoder=decoder,
            positions="sinusoidal_halves",
            scale_embeddings=scaled,
            tied=tied,
        )

    return fields.build(make)


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> str | None:
    """From ``spiece.model``; ``None`` where there is a ``tokenizer.json``, or nothing to make it of.

    Raises:
        TokenizerError: a file is damaged, or the model is none of Pegasus'.
    """
    if (folder / TOKENIZER).is_file() or not (folder / PIECES).is_file():
        return None
    model = read_model(folder / PIECES)
    pieces = [piece.text for piece in model.pieces]
    if pieces[: len(_OWN)] != _OWN:
        raise TokenizerError(
            f"{folder / PIECES} begins with the pieces {pieces[:3]}, expected {_OWN}: it is none of Pegasus'"
        )
    unused = [*_MASKS, *(f"<unk_{i}>" for i in range(2, _offset(folder)))]
    tokens = [*_OWN[:2], *unused, *pieces[2:]]
    return tokenizer_json(model, tokens, {*_OWN, *unused}, "<unk>", runs=True)


def _offset(folder: Path) -> int:
    file = folder / TOKENIZER_CONFIG
    settings = read_json(file) if file.is_file() else {}
    offset = settings.get("offset", OFFSET) if isinstance(settings, dict) else None
    if type(offset) is not int or not 2 <= offset <= _MOST:
        raise TokenizerError(f"{file}: offset is {offset!r}, expected an integer from 2 to {_MOST}")
    return offset


PEGASUS = Family(
    architectures=("PegasusForConditionalGeneration",),
    config=_config,
    keys={
        "model.shared": "embedding",
        "model.encoder.embed_tokens": "encoder.embedding",
        "model.decoder.embed_tokens": "decoder.embedding",
        "lm_head": "vocabulary",
        "final_logits_bias": "vocabulary_bias",
        **LAYER_KEYS,
        **{f"model.{stack}.layer_norm": f"{stack}.final_norm" for stack in ("encoder", "decoder")},
    },
    dropped=(r"model\.(encoder|decoder)\.embed_positions\.weight",),  # sinusoids, computed here
    copies=BART.copies,
    zeros=BART.zeros,
    adapt=BART.adapt,
    tokenizer=_tokenizer,
)
