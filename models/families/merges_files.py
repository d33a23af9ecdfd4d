"""Byte-level tokenizers of folders with ``vocab.json`` and ``merges.txt`` and no ``tokenizer.json``: GPT-2's and OPT's.

Special tokens are those that ``tokenizer_config.json`` or ``special_tokens_map.json`` name. Tokens that were added
beside the vocabulary are refused.

Source: ``GPT2Tokenizer`` of transformers 5.24.0 (``models/gpt2/tokenization_gpt2.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import TokenizerError
from ..files import TOKENIZER, read_json
from .marian import TOKENIZER_CONFIG, VOCABULARY, vocabulary_tokens

MERGES, NAMED, ADDED = "merges.txt", "special_tokens_map.json", "added_tokens.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "special")
_ROLES = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")


def merges_tokenizer(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The contents of a ``tokenizer.json``; ``None`` where there is one, or nothing to make it of.

    Raises:
        TokenizerError: a file is damaged, or says something that is not understood.
    """
    files = (folder / VOCABULARY, folder / MERGES)
    if (folder / TOKENIZER).is_file() or not all(file.is_file() for file in files):
        return None
    settings = {**_object(folder / NAMED), **_object(folder / TOKENIZER_CONFIG)}
    tokens = vocabulary_tokens(folder / VOCABULARY)
    ids = {token: i for i, token in enumerate(tokens)}
    special = _special(settings, folder)
    beside = [*_object(folder / ADDED), *_added(settings, folder)]
    if lost := [token for token in (*special, *beside) if token not in ids]:
        raise TokenizerError(
            f"{folder / VOCABULARY} lacks {', '.join(map(repr, lost[:5]))}, which other files name: tokens beside it "
            f"are not read; save a {TOKENIZER} there with transformers.AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(...)"
        )
    flags = _flags(settings, ids, folder / TOKENIZER_CONFIG)
    spaced = settings.get("add_prefix_space", False)
    if not isinstance(spaced, bool):
        raise TokenizerError(f"{folder / TOKENIZER_CONFIG}: add_prefix_space is {spaced!r}, expected true or false")
    level = {"type": "ByteLevel", "add_prefix_space": spaced, "trim_offsets": True, "use_regex": True}
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _entry(ids[token], token, flags.get(token, {}), token in special)
            for token in sorted({*special, *beside}, key=ids.__getitem__)
        ],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": _merges(folder / MERGES, ids),
        },
    }
    return json.dumps(data, ensure_ascii=False)


def _merges(file: Path, known: Mapping[str, int]) -> list[list[str]]:
    """Two tokens a line that make a third; the first line may say a version."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file}: expected UTF-8 text, two tokens a line, got {error}: copy it again") from error
    lines = lines[1:] if lines[0].startswith("#version") else lines
    pairs = [line.removesuffix("\r").split(" ") for line in lines if line.strip()]
    for pair in pairs:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= known.keys():
            raise TokenizerError(
                f"{file} has the line {' '.join(pair)[:60]!r}, expected two tokens of {VOCABULARY} that make one: copy "
                "both files again"
            )
    return pairs


def _special(settings: Mapping[str, Any], folder: Path) -> list[str]:
    found = [settings[f"{role}_token"] for role in _ROLES if settings.get(f"{role}_token") is not None]
    return [_text(token, folder) for token in found]


def _added(settings: Mapping[str, Any], folder: Path) -> list[str]:
    """What is named beside the special tokens that have roles."""
    decoder, more = settings.get("added_tokens_decoder") or {}, settings.get("additional_special_tokens") or []
    listed = [*decoder.values(), *more] if isinstance(decoder, dict) and isinstance(more, list) else [None]
    return [_text(token, folder) for token in listed]


def _text(token: Any, folder: Path) -> str:
    """How a token is spelled, which stands for itself or in an object."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise TokenizerError(f"{folder}: a special token is {str(token)[:100]}, expected a text, or an object with one")
    return text


def _object(file: Path) -> dict[str, Any]:
    data = read_json(file) if file.is_file() else {}
    if not isinstance(data, dict):
        raise TokenizerError(f"{file}: expected an object, got {type(data).__name__}")
    return data


def _flags(settings: Mapping[str, Any], ids: Mapping[str, int], file: Path) -> dict[str, Mapping[str, Any]]:
    """What ``added_tokens_decoder`` says of tokens, by their spelling.

    Raises:
        TokenizerError: a key is not the token's id, or a flag neither true nor false.
    """
    decoder, found = settings.get("added_tokens_decoder") or {}, dict[str, Mapping[str, Any]]()
    for key, said in decoder.items():
        token = said["content"] if isinstance(said, dict) else said
        if key != str(ids[token]):
            raise TokenizerError(
                f"{file}: added_tokens_decoder has {token!r} at {key}, and {VOCABULARY} at {ids[token]}: copy both "
                "files again"
            )
        found[token] = said if isinstance(said, dict) else {}
        for name in _FLAGS:
            if not isinstance(found[token].get(name, False), bool):
                raise TokenizerError(
                    f"{file}: added_tokens_decoder has {name} {found[token][name]!r} for {token!r}, expected true or "
                    "false"
                )
    return found


def _entry(index: int, text: str, flags: Mapping[str, Any], has_role: bool) -> dict[str, Any]:
    """Special is what has a role, and what no file calls otherwise."""
    return {
        "id": index,
        "content": text,
        **{name: flags.get(name, False) for name in _FLAGS[:3]},
        "normalized": False,
        "special": has_role or flags.get("special") is not False,
    }
