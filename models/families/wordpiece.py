"""A ``tokenizer.json`` made of BERT's ``vocab.txt``, for folders that have no other tokenizer.

Reference: ``transformers/models/bert/tokenization_bert.py`` of transformers 5.24.0, whose settings these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ...errors import CheckpointError

VOCABULARY = "vocab.txt"
_CLASSES = {f"{name}Tokenizer{fast}" for name in ("Bert", "DistilBert") for fast in ("", "Fast")} | {None}
_SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ONLY: dict[str, tuple[Any, ...]] = {"do_basic_tokenize": (True, None), "never_split": (None, [])}
_MOST_TOKENS = 2**24


def wordpiece_of(file: Path, settings: Mapping[str, Any], where: Path) -> Tokenizer:
    """The tokenizer of a ``vocab.txt``, a token a line, with the ``settings`` of ``tokenizer_config.json`` (``where``).

    Raises:
        CheckpointError: the file cannot be read, lacks a special token or has a line twice, or a setting is not
            understood.
    """
    faults = [f"{name} is {settings[name]!r}" for name, values in _ONLY.items() if settings.get(name) not in values]
    if (kind := settings.get("tokenizer_class")) not in _CLASSES:
        faults.append(f"tokenizer_class is {kind!r}")
    switches = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
    faults += [f"{n} is {settings[n]!r}" for n in switches if settings.get(n) not in (True, False, None)]
    if faults:
        raise CheckpointError(
            f"{where}: {', '.join(faults)}: {file.name} is not read so; save a tokenizer.json beside it with the "
            "library that wrote it"
        )
    vocabulary, special = _vocabulary(file), _special(settings)
    if missing := [token for token in special.values() if token not in vocabulary]:
        raise CheckpointError(f"{file} lacks {', '.join(missing)}: it is another tokenizer's, or cut short")
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


def _special(settings: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, default in _SPECIAL.items():
        token = settings.get(f"{name}_token") or default
        found[name] = str(token.get("content", default) if isinstance(token, dict) else token)
    return found


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
