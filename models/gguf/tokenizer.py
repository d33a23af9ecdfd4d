"""A ``tokenizer.json`` from the vocabulary of a GGUF file, giving the tokens that llama.cpp gives.

Control tokens are special: a text that spells one holds the token where it is read with ``encode_special_tokens=False``
(a rendered chat), and is only text with ``True`` (what a user typed). Tokens that the file calls user-defined are found
in every text. Nothing is normalized, so decoding gives back the text to the byte (``llama``: ``▁`` comes back as a
space, and of the spaces that it puts before the text and after each special token, the first is taken off again).
A byte that a byte-level vocabulary lacks is lost, as it is in llama.cpp: SmolLM2 lacks six control characters, and the
first bytes of planes 4 to 11 of Unicode, where nothing is assigned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ...errors import TokenizerError
from ..merges import ranked_pairs
from .pre_tokenizers import PRE_TOKENIZERS
from .vocabulary import CONTROL, END_TEXTS, UNKNOWN, USER_DEFINED, Vocabulary


def tokenizer_json(vocabulary: Vocabulary) -> str:
    """The contents of a ``tokenizer.json``.

    Raises:
        TokenizerError: a model or pre-tokenizer that is not converted, a merge that is none, too many merges.
    """
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if vocabulary.model not in builders:
        raise TokenizerError(
            f"tokenizer model {vocabulary.model!r} is not converted, expected one of {', '.join(builders)}: "
            "use the checkpoint's own tokenizer.json"
        )
    parts = builders[vocabulary.model](vocabulary)
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary),
        "post_processor": _template(vocabulary),
        **parts,
    }
    return json.dumps(data, ensure_ascii=False)


def adds_start(vocabulary: Vocabulary) -> bool:
    """Whether a text begins with the start token: as the file says, else as its kind of tokenizer does."""
    if vocabulary.adds_start is not None:
        return vocabulary.adds_start
    by_name = PRE_TOKENIZERS.get(vocabulary.pre_tokenizer)
    return vocabulary.model == "llama" or (by_name is not None and by_name.adds_start)


def _byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    name = vocabulary.pre_tokenizer
    if name not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"pre-tokenizer {name!r} is not converted, expected one of {', '.join(sorted(PRE_TOKENIZERS))}: "
            "use the checkpoint's own tokenizer.json"
        )
    splits = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        for regex in PRE_TOKENIZERS[name].splits
    ]
    bytes_to_text = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, bytes_to_text]},
        "decoder": bytes_to_text,
        "model": _bpe(
            vocabulary,
            list(_merges(vocabulary)),
            ignore_merges=PRE_TOKENIZERS[name].ignore_merges,
        ),
    }


def _merges(vocabulary: Vocabulary) -> Iterable[tuple[str, str]]:
    """``first second``: the space that separates them is the first one after the first character."""
    known = set(vocabulary.tokens)
    if not vocabulary.merges:
        raise TokenizerError("a gpt2 tokenizer has no merges, expected one at least: convert the checkpoint again")
    for rank, merge in enumerate(vocabulary.merges):
        cut = merge.find(" ", 1)
        first, second = merge[:cut], merge[cut + 1 :]
        if cut < 0 or not {first, second, first + second} <= known:
            raise TokenizerError(f"merge {rank} is {merge[:60]!r}, expected two tokens that make one: convert it again")
        yield first, second


def _sentencepiece(vocabulary: Vocabulary) -> dict[str, Any]:
    """The pair that makes the token of the highest score is merged first: so the scores are the ranks of merges."""
    known = set(vocabulary.tokens)
    missing = [name for name in _BYTES if name not in known]
    if missing:
        raise TokenizerError(f"a llama tokenizer lacks {missing[:3]}, expected all 256 byte tokens: convert it again")
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prefix = [{"type": "Prepend", "prepend": "▁"}] if vocabulary.adds_space else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if vocabulary.adds_space else []
    back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*back, *strip]},
        "model": _bpe(vocabulary, ranked_pairs(vocabulary.tokens, vocabulary.scores.tolist()), byte_fallback=True),
    }


_BYTES = [f"<0x{value:02X}>" for value in range(256)]


def _bpe(vocabulary: Vocabulary, merges: list[tuple[str, str]], **settings: bool) -> dict[str, Any]:
    unknown = vocabulary.tokens[vocabulary.unknown_id] if vocabulary.unknown_id is not None else None
    return {
        "type": "BPE",
        "dropout": None,
        # Byte-level BPE knows every byte; with an unknown token the library would skip what it knows.
        "unk_token": unknown if settings.get("byte_fallback") else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
        "merges": merges,
    }


def _added_tokens(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    found = []
    for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types.tolist(), strict=True)):
        special = kind in (CONTROL, UNKNOWN) or token in END_TEXTS
        if token and (special or kind == USER_DEFINED):
            found.append(
                {
                    "id": index,
                    "content": token,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": special,
                }
            )
    return found


def _template(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Start and end tokens around a text, where the file wants them."""
    start = vocabulary.start_id if adds_start(vocabulary) else None
    end = vocabulary.end_id if vocabulary.adds_end else None
    if start is None and end is None:
        return None
    used = {vocabulary.tokens[index]: index for index in (start, end) if index is not None}

    def piece(index: int | None) -> list[dict[str, Any]]:
        return [] if index is None else [{"SpecialToken": {"id": vocabulary.tokens[index], "type_id": 0}}]

    def text(name: str) -> list[dict[str, Any]]:
        return [*piece(start), {"Sequence": {"id": name, "type_id": 0}}, *piece(end)]

    return {
        "type": "TemplateProcessing",
        "single": text("A"),
        "pair": [*text("A"), *text("B")],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in used.items()},
    }
