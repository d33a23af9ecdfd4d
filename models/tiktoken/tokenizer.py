"""A ``tokenizer.json`` from a tiktoken file, giving the tokens that the tiktoken library gives.

tiktoken merges two neighbours whenever what they spell is a token, that of the lowest rank first, the leftmost of equal
ones; so every pair that makes a token is a merge, of the rank of that token. What is a token as a whole stays one.
Before that Qwen's own tokenizer composes characters (NFC), and so does this.

Source: ``byte_pair_merge`` in ``src/lib.rs`` of github.com/openai/tiktoken, release 0.14.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import TokenizerError
from ..byte_level import character_of
from ..merges import ranked_pairs
from .patterns import NORMALIZED, PATTERNS

MAX_SPECIAL = 1 << 14


def tokenizer_json(ranks: Sequence[bytes], pattern: str, special: Mapping[str, int], start: str | None = None) -> str:
    """The contents of a ``tokenizer.json``.

    ``ranks``: the tokens by rank, which is their id. ``pattern``: one of ``PATTERNS``. ``special``: tokens behind them
    with their ids; one that ``start`` names stands before every text.

    Raises:
        TokenizerError: an unknown pattern; special tokens that are none, or whose ids are taken; too many merges.
    """
    if pattern not in PATTERNS:
        raise TokenizerError(f"pattern {pattern!r} is not known, expected one of {', '.join(PATTERNS)}")
    characters = [character_of(byte) for byte in range(256)]
    names = {"".join(characters[byte] for byte in token): rank for rank, token in enumerate(ranks) if token}
    _check(names, special, len(ranks), start)
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(index, text) for text, index in sorted(special.items(), key=lambda item: item[1])],
        "normalizer": {"type": NORMALIZED[pattern]} if pattern in NORMALIZED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_split(PATTERNS[pattern]), _BYTES]},
        "post_processor": None if start is None else _template(start, special[start]),
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            # Special ones, too: the library numbers what the vocabulary lacks by itself.
            "vocab": {**names, **special},
            "merges": ranked_pairs(list(names), [-float(rank) for rank in names.values()]),
        },
    }
    return json.dumps(data, ensure_ascii=False)


_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def _check(names: Mapping[str, int], special: Mapping[str, int], size: int, start: str | None) -> None:
    if len(special) > MAX_SPECIAL:
        raise TokenizerError(f"there are {len(special)} special tokens, expected at most {MAX_SPECIAL}")
    for text, index in special.items():
        if not text or text in names or not size <= index < size + MAX_SPECIAL:
            raise TokenizerError(
                f"special token {text[:60]!r} has the id {index}, expected a text that is no token yet and an id "
                f"from {size}, behind the tokens of the file"
            )
    if len(set(special.values())) < len(special):
        raise TokenizerError("two special tokens have one id, expected distinct ids")
    if start is not None and start not in special:
        raise TokenizerError(f"the start token {start!r} is none of the {len(special)} special tokens: it is needed")


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _template(start: str, index: int) -> dict[str, Any]:
    def text(name: str) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": name, "type_id": 0}}]

    return {
        "type": "TemplateProcessing",
        "single": text("A"),
        "pair": [*text("A"), *text("B")],
        "special_tokens": {start: {"id": start, "ids": [index], "tokens": [start]}},
    }


def _added(index: int, text: str) -> dict[str, Any]:
    return {
        "id": index,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
