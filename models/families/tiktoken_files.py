"""Tokenizers of folders with a tiktoken file and no ``tokenizer.json``.

The file holds tokens and their ranks alone. How texts are split is known by the ``model_type`` of ``config.json``, or
``tokenizer_config.json`` names it as ``pat_str``. Special tokens are those of ``added_tokens_decoder`` there, as
transformers writes them; without it those that the ``model_type`` was published with.

Source: ``llama/tokenizer.py`` of github.com/meta-llama/llama3, ``tokenization_qwen.py`` of huggingface.co/Qwen/Qwen-7B.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import TokenizerError
from ..tiktoken.patterns import PATTERNS
from ..tiktoken.ranks import is_tiktoken, read_ranks
from ..tiktoken.tokenizer import MAX_SPECIAL, tokenizer_json

SUFFIX, META = ".tiktoken", "tokenizer.model"
PATTERN, ADDED = "pat_str", "added_tokens_decoder"
_LLAMA3 = {
    0: "begin_of_text",
    1: "end_of_text",
    6: "start_header_id",
    7: "end_header_id",
    9: "eot_id",
}


class _Kind(NamedTuple):
    """The pattern, special tokens by rank behind the file's, and the one that begins a text."""

    pattern: str
    special: tuple[str, ...]
    start: str | None = None


def _llama3() -> _Kind:
    reserved = iter(range(MAX_SPECIAL))
    names = [_LLAMA3[i] if i in _LLAMA3 else f"reserved_special_token_{next(reserved)}" for i in range(256)]
    return _Kind("llama3", tuple(f"<|{name}|>" for name in names), "<|begin_of_text|>")


_QWEN = _Kind("qwen", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
_KINDS = {"gpt2": _Kind("gpt2", ("<|endoftext|>",)), "llama": _llama3(), "qwen2": _QWEN, "qwen3": _QWEN}


def tiktoken_file(folder: Path) -> Path | None:
    """The one file of tiktoken's in a folder: ``*.tiktoken``, or a ``tokenizer.model`` with the same text in it.

    Raises:
        TokenizerError: there are several.
    """
    found = sorted(file for file in folder.glob(f"*{SUFFIX}") if file.is_file())
    if not found and (folder / META).is_file() and is_tiktoken(folder / META):
        found = [folder / META]
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise TokenizerError(f"{folder} has {len(found)} tiktoken files ({names}), expected one: keep the model's own")
    return found[0] if found else None


def tiktoken_json(file: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The contents of a ``tokenizer.json``; ``settings``: what ``tokenizer_config.json`` says.

    Raises:
        TokenizerError: the file is damaged, how texts are split is not known, or special tokens are none.
    """
    model = config.get("model_type")
    kind = _KINDS.get(model) if isinstance(model, str) else None
    pattern = settings.get(PATTERN, kind.pattern if kind else None)
    if not isinstance(pattern, str) or pattern not in PATTERNS:
        raise TokenizerError(
            f"{file} does not say how texts are split, and neither does model_type {model!r} ({PATTERN} is "
            f"{pattern!r}): expected the model_type {', '.join(_KINDS)}, or in tokenizer_config.json {PATTERN!r}: one "
            f"of {', '.join(PATTERNS)}"
        )
    ranks = read_ranks(file)
    usual = {text: len(ranks) + i for i, text in enumerate(kind.special)} if kind else {}
    special = _special(settings[ADDED], file) if settings.get(ADDED) is not None else usual
    start = kind.start if kind and kind.start in special else None
    return tokenizer_json(ranks, pattern, special, start)


def _special(added: Any, file: Path) -> dict[str, int]:
    """Contents and ids of ``added_tokens_decoder``.

    Raises:
        TokenizerError: it is no mapping of ids to tokens, or one of them is not special.
    """
    found: dict[str, int] = {}
    for index, token in added.items() if isinstance(added, dict) else [("", added)]:
        text = token.get("content") if isinstance(token, dict) else None
        if not isinstance(text, str) or not index.isdecimal() or len(index) > 7 or token.get("special") is not True:
            raise TokenizerError(
                f"{file.parent}: {ADDED} has {str(token)[:200]} for {index[:60]!r}, expected the id and the content of "
                "a special token: others are not read beside a tiktoken file, save a tokenizer.json"
            )
        found[text] = int(index)
    return found
