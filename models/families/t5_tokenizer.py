"""Tokenizers of T5's family: SentencePiece with sentinels behind its pieces, and ByT5's bytes.

A sentinel ``<extra_id_0>`` stands for a part of a text that is left out (Raffel et al. 2020, section 3.1.4), and is
typed: so it is found in texts and decoded, as what is special is not. Each part of a text between sentinels is read as
a text by itself, as by the library.

Reference: ``models/t5/tokenization_t5.py`` and ``models/byt5/tokenization_byt5.py`` of transformers 5.24.0. Known to
differ: what is special there when it is typed, such as ``</s>``, is here the characters that it is spelled with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import TokenizerError
from ..byte_level import character_of
from ..files import TOKENIZER, read_json
from ..sentencepiece.model import SentencePieceModel, read_model
from ..sentencepiece.tokenizer import tokenizer_json

PIECES, SETTINGS = "spiece.model", "tokenizer_config.json"
BYTES_CLASS = "ByT5Tokenizer"
_SENTINEL = re.compile(r"<extra_id_\d+>")
_MOST_SENTINELS = 10_000
_LISTS = ("extra_special_tokens", "additional_special_tokens")
_SPECIAL = ("<pad>", "</s>", "<unk>")


def tokenizer_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The contents of a ``tokenizer.json`` whose sentinels are found in texts.

    Of the one that is there; without it, of bytes where ``tokenizer_config.json`` says so, or of ``spiece.model``.
    ``None`` where there is nothing to make it of, or nothing to change.

    Raises:
        CheckpointError: a file is no JSON.
        TokenizerError: a file is damaged, or tokens are added that are no sentinels.
    """
    if (folder / TOKENIZER).is_file():
        return _found_in_texts(read_json(folder / TOKENIZER))
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if not isinstance(settings, dict):
        raise TokenizerError(f"{folder / SETTINGS}: expected an object, got {type(settings).__name__}")
    if settings.get("tokenizer_class") == BYTES_CLASS:
        return byte_tokenizer(_sentinels(settings, 125, folder / SETTINGS))
    if (folder / PIECES).is_file():
        # They count backwards: the first has the last id.
        return piece_tokenizer(read_model(folder / PIECES), _sentinels(settings, 100, folder / SETTINGS)[::-1])
    return None


def piece_tokenizer(model: SentencePieceModel, sentinels: Sequence[str]) -> str:
    """The pieces of ``model`` by id, then ``sentinels``."""
    data = json.loads(tokenizer_json(model))
    data["added_tokens"] += [_sentinel(len(model.pieces) + i, text) for i, text in enumerate(sentinels)]
    return json.dumps(data, ensure_ascii=False)


def byte_tokenizer(sentinels: Sequence[str]) -> str:
    """Three special tokens, the 256 bytes of UTF-8, then ``sentinels`` (Xue et al. 2022, section 3.1)."""
    tokens = [*_SPECIAL, *map(character_of, range(256))]
    level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    data: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *({**_sentinel(i, text), "special": True} for i, text in enumerate(_SPECIAL)),
            *(_sentinel(len(tokens) + i, text) for i, text in enumerate(sentinels)),
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **level},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **level},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [],
        },
    }
    return json.dumps(data, ensure_ascii=False)


def _sentinels(settings: Mapping[str, Any], default: int, where: Path) -> list[str]:
    """Those that ``tokenizer_config.json`` lists, or as many as it says.

    Raises:
        TokenizerError: it lists others than ``<extra_id_0>`` and so on, or says no number.
    """
    listed = next((settings[name] for name in _LISTS if isinstance(settings.get(name), list) and settings[name]), None)
    count = settings.get("extra_ids", default) if listed is None else len(listed)
    if type(count) is not int or not 0 <= count <= _MOST_SENTINELS:
        raise TokenizerError(f"{where}: extra_ids is {count!r}, expected an integer from 0 to {_MOST_SENTINELS}")
    names = [f"<extra_id_{i}>" for i in range(count)]
    if listed is not None and (not all(isinstance(name, str) for name in listed) or sorted(listed) != sorted(names)):
        raise TokenizerError(
            f"{where}: the {count} added tokens are not <extra_id_0> to <extra_id_{count - 1}>: save a {TOKENIZER} "
            "there with transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return names


def _sentinel(index: int, text: str) -> dict[str, Any]:
    return {
        "id": index,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": False,
    }


def _found_in_texts(data: Any) -> str | None:
    """A ``tokenizer.json`` whose sentinels are no special tokens; ``None`` where none is, or it is no such file."""
    added = data.get("added_tokens") if isinstance(data, dict) else None
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        return None
    special = [token for token in added if token.get("special") is True and _is_sentinel(token.get("content"))]
    for token in special:
        token["special"] = False
    return json.dumps(data, ensure_ascii=False) if special else None


def _is_sentinel(text: Any) -> bool:
    return isinstance(text, str) and _SENTINEL.fullmatch(text) is not None
