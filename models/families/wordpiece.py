"""A ``tokenizer.json`` made of BERT's ``vocab.txt``, for folders that have no other tokenizer.

Reference: ``transformers/models/bert/tokenization_bert.py`` of transformers 5.24.0, whose settings these are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ...errors import CheckpointError

VOCABULARY = "vocab.txt"
_CLASSES = {f"{name}Tokenizer{fast}" for name in ("Bert", "DistilBert") for fast in ("", "Fast")}
_SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ONLY: dict[str, tuple[Any, ...]] = {
    "do_basic_tokenize": (True, None),
    "never_split": (None, []),
    "tokenize_chinese_chars": (True, False, None),
    "strip_accents": (True, False, None),
    "do_lower_case": (True, False, None),
    "wordpieces_prefix": ("##", None),
    "max_input_chars_per_word": (100, None),
}
_MOST_TOKENS = 2**24


def wordpiece_of(file: Path, settings: Mapping[str, Any], where: Path, added: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a ``vocab.txt``, a token a line, with the ``settings`` of ``tokenizer_config.json`` (``where``).

    ``added``: tokens that another file names; the special ones may be among them, and no others.

    Of a token in two lines the later one counts, as in the reference.

    Raises:
        CheckpointError: the file cannot be read or lacks a special token, or a setting is not understood.
    """
    faults = [
        f"{name} is {settings[name]!r}"
        for name, values in _ONLY.items()
        if name in settings and not any(settings[name] == v and type(settings[name]) is type(v) for v in values)
    ]
    kind = settings.get("tokenizer_class")
    if kind is not None and (not isinstance(kind, str) or kind not in _CLASSES):
        faults.append(f"tokenizer_class is {kind!r}")
    if faults:
        raise CheckpointError(
            f"{where}: {', '.join(faults)}: {file.name} is not read so; save a tokenizer.json beside it with the "
            "library that wrote it"
        )
    vocabulary, special = _vocabulary(file), _special(settings, where)
    if missing := [token for token in special.values() if token not in vocabulary]:
        raise CheckpointError(f"{file} lacks {', '.join(missing)}: it is another tokenizer's, or cut short")
    if beside := [token for token in (*added, *_added(settings, where)) if token not in special.values()]:
        raise CheckpointError(
            f"{where}: the tokens {', '.join(map(repr, beside[:5]))} were added beside {file.name}, and are not read; "
            "save a tokenizer.json beside it with the library that wrote it"
        )
    return _tokenizer(vocabulary, special, settings)


def _vocabulary(file: Path) -> dict[str, int]:
    """Tokens by line; the last line may end or not."""
    try:
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: expected UTF-8 text, a token a line, got {error}: copy it again") from error
    if len(lines) > _MOST_TOKENS:
        raise CheckpointError(f"{file} has {len(lines)} lines, expected at most {_MOST_TOKENS}")
    # Of a token in two lines the later one counts, as in the reference.
    return {line.removesuffix("\r"): i for i, line in enumerate(lines)}


def _special(settings: Mapping[str, Any], where: Path) -> dict[str, str]:
    found = {name: _text(settings.get(f"{name}_token") or default) for name, default in _SPECIAL.items()}
    # A colon or a dollar means something in the library's template of a text; a space parts its tokens.
    if wrong := [f"{name}_token" for name, text in found.items() if not text or re.search(r"[\s:$]", text)]:
        given = ", ".join(f"{name} is {settings.get(name)!r}" for name in wrong)
        raise CheckpointError(f"{where}: {given}, expected a token without spaces, colons and dollars")
    return {name: str(text) for name, text in found.items()}


def _text(token: object) -> str | None:
    """How a token is spelled, which stands for itself or in an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _added(settings: Mapping[str, Any], where: Path) -> list[str]:
    """What the settings name beside the special tokens that have names."""
    decoder, more = settings.get("added_tokens_decoder") or {}, settings.get("additional_special_tokens") or []
    texts = (
        [_text(token) for token in (*decoder.values(), *more)]
        if isinstance(decoder, dict) and isinstance(more, list)
        else [None]
    )
    if None in texts:
        raise CheckpointError(
            f"{where}: added_tokens_decoder is {decoder!r:.200} and additional_special_tokens {more!r:.200}, expected "
            "an object and a list of tokens"
        )
    return [text for text in texts if text is not None]


def _tokenizer(vocabulary: dict[str, int], special: Mapping[str, str], settings: Mapping[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars") is not False,
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case") is not False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    first, last = special["cls"], special["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, vocabulary[token]) for token in (first, last)],
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special.values()])
    return tokenizer
