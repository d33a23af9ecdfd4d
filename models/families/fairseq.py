"""Tokenizers and languages of fairseq's multilingual networks: mBART, mBART-50, M2M-100 and NLLB.

fairseq numbers the pieces of a SentencePiece model anew, and puts the tokens of languages behind them:

==================  ================================================================================================
mBART, NLLB         ``<s> <pad> </s> <unk>``, the model's pieces but its own three special ones, languages, ``<mask>``
M2M-100             what ``vocab.json`` says, languages as ``__de__``
==================  ================================================================================================

A folder with a ``tokenizer.json`` is read by that. Where a language's token stands in a text the class of the tokenizer
says, as it does in transformers; without one, what the ``tokenizer.json`` puts around a text.

Source: ``tokenization_mbart.py``, ``tokenization_mbart50.py``, ``tokenization_m2m_100.py`` and ``tokenization_nllb.py``
of transformers 4.57.1 (their classes over the sentencepiece library) and 5.24.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, TokenizerError
from ..files import TOKENIZER, read_json
from ..languages import LanguageConfig, SourcePlace, TargetPlace
from ..sentencepiece.model import NORMAL, UNIGRAM, USER_DEFINED, SentencePieceModel, read_model
from ..sentencepiece.normalizer import MARKS
from ..sentencepiece.tokenizer import tokenizer_json
from .family import Around
from .language_codes import M2M_100, MBART, MBART_50, NLLB_200, WMT_21
from .marian import TOKENIZER_CONFIG, VOCABULARY, vocabulary_tokens

HARMLESS = """
    _num_labels activation_dropout classif_dropout decoder_layerdrop dropout early_stopping encoder_layerdrop
    extra_pos_embeddings forced_eos_token_id init_std length_penalty max_length num_beams num_hidden_layers output_past
    prefix save_step
"""
"""Fields of their ``config.json`` that change nothing in a finished network; how to decode is read elsewhere."""
PIECES = "sentencepiece.bpe.model"
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
_OWN = ["<unk>", "<s>", "</s>"]  # the first pieces of a SentencePiece model of fairseq's
_MASK = "<mask>"
_CODE = re.compile(r"[a-z]{2,3}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3}|__([a-z]{2,4})__")
"""How the tokens of languages are spelled: ``de_DE``, ``deu_Latn`` or ``__de__``, of which the code is ``de``."""
_LISTS = {"MBartTokenizer": MBART, "MBart50Tokenizer": MBART_50, "NllbTokenizer": NLLB_200}
_PLACES: dict[str, tuple[SourcePlace, TargetPlace]] = {
    "MBartTokenizer": ("after", "start"),
    "MBart50Tokenizer": ("before", "forced"),
    "NllbTokenizer": ("before", "forced"),
    "M2M100Tokenizer": ("before", "forced"),
}
TOKENIZER_CLASSES = frozenset(_PLACES)
"""Tokenizers that have languages."""


def fairseq_tokenizer(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The contents of a ``tokenizer.json``; ``None`` where there is one, or nothing to make it of.

    Raises:
        TokenizerError: a file is damaged, or not fairseq's; or nothing says which languages there are.
    """
    if (folder / TOKENIZER).is_file() or not (folder / PIECES).is_file():
        return None
    model, settings = read_model(folder / PIECES), _settings(folder)
    if (folder / VOCABULARY).is_file():
        codes = {"m2m100": M2M_100, "wmt21": WMT_21}.get(settings.get("language_codes") or "m2m100")
        if codes is None:
            raise TokenizerError(
                f"{folder / TOKENIZER_CONFIG}: language_codes is {settings['language_codes']!r}, expected 'm2m100' or "
                "'wmt21'"
            )
        languages = [f"__{code}__" for code in codes]
        tokens = [*vocabulary_tokens(folder / VOCABULARY), *languages]
        if absent := [token for token in _SPECIAL if token not in tokens]:
            raise TokenizerError(f"{folder / VOCABULARY} lacks {', '.join(absent)}: copy the model again")
        found = {piece.text for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED)}
        if lost := sorted(found - set(tokens)):
            raise TokenizerError(
                f"{folder / VOCABULARY} lacks {len(lost)} pieces of {PIECES}, such as {lost[0]!r}, expected all: they "
                "would be unknown one by one, which is not converted; use a tokenizer.json"
            )
        special = {*_SPECIAL, *languages}
    else:
        tokens = _shifted(model, folder / PIECES)
        languages = [*_listed(folder, config, settings), _MASK]
        special = {*_SPECIAL, *languages}
        tokens += languages
    return tokenizer_json(model, tokens, special, "<unk>", runs=model.kind == UNIGRAM)


def _shifted(model: SentencePieceModel, file: Path) -> list[str]:
    """fairseq's four special tokens in place of SentencePiece's three, then the pieces."""
    pieces = [piece.text for piece in model.pieces]
    if pieces[: len(_OWN)] != _OWN:
        raise TokenizerError(f"{file} begins with the pieces {pieces[:3]}, expected {_OWN}: it is none of fairseq's")
    return [*_SPECIAL, *pieces[len(_OWN) :]]


def _listed(folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    name = _class(config, settings)
    if name not in _LISTS:
        raise TokenizerError(
            f"{folder / TOKENIZER_CONFIG}: tokenizer_class is {name!r}, expected {' or '.join(map(repr, _LISTS))}: it "
            f"says which languages {PIECES} goes with"
        )
    return _LISTS[name]


def fairseq_languages(folder: Path, config: Mapping[str, Any], tokenizer: Any, around: Around) -> LanguageConfig:
    """The languages of a folder; ``around``: the tokens that a ``tokenizer.json`` puts before and after a text.

    Raises:
        CheckpointError: the tokenizer has no languages, or nothing says where their tokens stand.
        ConfigError: a language by default that is none.
    """
    settings = _settings(folder)
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    matches = [(i, _CODE.fullmatch(token.content.strip(MARKS))) for i, token in added if token.special]
    tokens = {match[1] or match[0]: i for i, match in matches if match}
    if not tokens:
        raise CheckpointError(f"{folder}: no special token of the tokenizer is a language, such as de_DE or __de__")
    source, target = _places(folder, config, settings, set(tokens.values()), around)
    return LanguageConfig(
        tokens=tokens,
        source=source,
        target=target,
        default_source=settings.get("src_lang"),
        default_target=settings.get("tgt_lang"),
    )


def _places(
    folder: Path,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    languages: set[int],
    around: Around,
) -> tuple[SourcePlace, TargetPlace]:
    name = _class(config, settings)
    if name in _PLACES:
        source, target = _PLACES[name]
        return "after" if name == "NllbTokenizer" and settings.get("legacy_behaviour") is True else source, target
    before, after = around
    if len(before) == 1 and before[0] in languages:
        return "before", "forced"
    raise CheckpointError(
        f"{folder / TOKENIZER_CONFIG}: tokenizer_class is {name!r} and the tokenizer puts {before} before and {after} "
        f"after a text, expected {' or '.join(map(repr, _PLACES))}, or a language before it: where the tokens of "
        "languages stand cannot be known"
    )


def _class(config: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """The class of the tokenizer; that over the tokenizers library is as the other."""
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else None


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / TOKENIZER_CONFIG
    data = read_json(file) if file.is_file() else {}
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: expected an object, got {type(data).__name__}")
    return data
