"""Tokens and texts against the tiktoken library, one by one, with every pattern."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.load
import tiktoken_ext.openai_public

from edgewise.errors import TokenizerError
from edgewise.export.probes import AWKWARD
from edgewise.export.sentences import SENTENCES
from edgewise.models.tiktoken.patterns import PATTERNS
from edgewise.models.tiktoken.ranks import read_ranks
from edgewise.models.tiktoken.tokenizer import tokenizer_json
from edgewise.runtime.tokenizer import Tokenizer

from ..gguf.lines import WRITTEN, code_points, mixed, runs
from .trained import ranks

SPECIAL = "<|endoftext|>"
# ``pat_str`` of llama/tokenizer.py of llama3, and of tokenization_qwen.py of Qwen-7B.
_ELSEWHERE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ELSEWHERE = {"llama3": _ELSEWHERE % r"\p{N}{1,3}", "qwen": _ELSEWHERE % r"\p{N}"}
ENDINGS = [
    "it's IT'S it'ſ 'ſ 'K we'LL They'Re l'été", "HelloWorld HTTPServer's ÉCOLEa ǅa ʰa a\u0301B \u0301", "x/\r\n//\n",
    "1234567 ٣٤٥٦ ⅷ½", "a  ", "a \t\r\n", "a\n\n ", "\u3000\u3000a\u3000", "a\u2028\u2029",
    " zqxj zqxj", "🙂!", "aaaaaaaab",
]  # fmt: skip


@cache
def lines() -> tuple[str, ...]:
    """In many scripts, joined in ways that spaces and symbols can go wrong."""

    def found() -> Iterator[str]:
        yield from (*SENTENCES, *AWKWARD.values(), *WRITTEN, *ENDINGS, *runs(40), *mixed(8000))
        yield from code_points(step=64)

    # Of white space alone there is no text.
    return tuple(line if line.strip() else f"x{line}" for line in found())


def library(pattern: str, tokens: Mapping[bytes, int], monkeypatch: pytest.MonkeyPatch) -> tiktoken.Encoding:
    """The library's own encoding of these tokens, with a pattern that it or another project publishes."""
    if pattern in ELSEWHERE:
        regex = ELSEWHERE[pattern]
    else:
        for name in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):  # they download
            monkeypatch.setattr(tiktoken_ext.openai_public, name, lambda *_, **__: {})
        regex = tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[pattern]()["pat_str"]
    return tiktoken.Encoding(pattern, pat_str=regex, mergeable_ranks=dict(tokens), special_tokens={SPECIAL: 60_000})


def converted(tokens: Any, pattern: str) -> Tokenizer:
    return Tokenizer(tokenizer_json(tokens, pattern, {SPECIAL: len(tokens)}).encode())


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_tokens_and_texts_are_those_of_the_library(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = library(pattern, {token: rank for rank, token in enumerate(ranks())}, monkeypatch)
    ours = converted(ranks(), pattern)
    assert len(lines()) >= 10_000

    def read(line: str) -> str:
        return unicodedata.normalize("NFC", line) if pattern == "qwen" else line  # as QWenTokenizer.tokenize does

    wrong = [ascii(line) for line in lines() if ours.encode(line) != theirs.encode_ordinary(read(line))]
    assert not wrong, (len(wrong), wrong[:5])
    assert [line for line in lines() if ours.decode(ours.encode(line)) != read(line)] == []
    assert any(read(line) != line for line in lines()) == (pattern == "qwen")


@pytest.mark.real
@pytest.mark.parametrize("name", ["gpt2.tiktoken", "multilingual.tiktoken"])
def test_published_files(name: str, models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = models("tiktoken") / name
    theirs, ours = library("gpt2", tiktoken.load.load_tiktoken_bpe(str(file)), monkeypatch), read_ranks(file)
    tokenizer = converted(ours, "gpt2")
    for line in lines():
        expected = theirs.encode_ordinary(line)
        assert tokenizer.encode(line) == expected, line
        assert tokenizer.decode(expected) == line


def test_what_no_merge_makes_is_a_token_as_a_whole() -> None:
    tokens = [*(bytes([byte]) for byte in range(256)), b" zqxj"]
    ours = converted(tokens, "gpt2")
    assert ours.encode("a zqxj") == [97, 256]
    assert ours.encode("a zqxjy") == [97, *b" zqxjy"]


def test_special_tokens_are_found_where_they_are_read_and_never_typed() -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    ours = Tokenizer(tokenizer_json(tokens, "gpt2", {"<s>": 300, SPECIAL: 256}, "<s>").encode())
    assert ours.special_ids == {256, 300}
    assert ours.encode(SPECIAL) == list(SPECIAL.encode())


@pytest.mark.parametrize(
    ("pattern", "special", "start", "message"),
    [
        ("p50k", {}, None, "pattern 'p50k' is not known, expected one of gpt2, cl100k_base, o200k_base, llama3, qwen"),
        ("gpt2", {"a": 300}, None, "special token 'a' has the id 300, expected a text that is no token yet and an id"),
        ("gpt2", {"<s>": 255}, None, "special token '<s>' has the id 255, expected .* an id from 256, behind"),
        ("gpt2", {"<s>": 9_999_999}, None, "special token '<s>' has the id 9999999"),
        ("gpt2", {"": 256}, None, "special token '' has the id 256"),
        ("gpt2", {"<s>": 256, "</s>": 256}, None, "two special tokens have one id, expected distinct ids"),
        ("gpt2", {"<s>": 256}, "<b>", "the start token '<b>' is none of the 1 special tokens: it is needed"),
        ("gpt2", {f"<{i}>": 256 + i for i in range(16_385)}, None, "there are 16385 special tokens, expected at most"),
    ],
)
def test_what_is_refused(pattern: str, special: dict[str, int], start: str | None, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer_json([bytes([byte]) for byte in range(256)], pattern, special, start)
