"""Tokenizers out of GGUF vocabularies: the tokens of llama.cpp on every line, and the text again when decoded."""

from __future__ import annotations

import dataclasses
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgewise.errors import CheckpointError, TokenizerError
from edgewise.models import merges
from edgewise.models.gguf.pre_tokenizers import PRE_TOKENIZERS
from edgewise.models.gguf.reader import GgufFile
from edgewise.models.gguf.tokenizer import tokenizer_json
from edgewise.models.gguf.vocabulary import Vocabulary, read_vocabulary
from edgewise.runtime import tokenizer as runtime

from . import gguf_bytes as raw
from . import tiny
from .lines import WRITTEN
from .real_lines import chunks, digest

GOLDEN = json.loads((tiny.GOLDENS / "tiny_tokens.json").read_text())
NAMES = list(GOLDEN["digests"])


def pairs_of(name: str) -> list[bytes]:
    if name.startswith("llama") and name != "llama-bpe":
        return tiny.spm_pairs(adds_space=name == "llama")
    return tiny.bpe_pairs(name)


def read(pairs: list[bytes]) -> Vocabulary:
    return read_vocabulary(GgufFile(Path("v.gguf"), np.frombuffer(raw.file(pairs, [], b""), np.uint8)))


def tokenizer_of(name: str, *extra: bytes, special: bool = False) -> Tokenizer:
    """``special``: control tokens in a text are read as such."""
    made = Tokenizer.from_str(tokenizer_json(read([*pairs_of(name), *extra])))
    made.encode_special_tokens = not special
    return made


def encode(tokenizer: Tokenizer, line: str) -> list[int]:
    ids: list[int] = tokenizer.encode(line, add_special_tokens=False).ids
    return ids


def test_every_pre_tokenizer_is_compared() -> None:
    assert set(NAMES) == {*PRE_TOKENIZERS, "llama", "llama, no space"}


@pytest.mark.parametrize("special", [False, True], ids=["plain", "special"])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_llama_cpp(name: str, special: bool) -> None:
    tokenizer = tokenizer_of(name, special=special)
    found = [digest(encode(tokenizer, line) for line in chunk) for chunk in chunks(tiny.made_lines())]
    assert found == GOLDEN["digests"][name]["special" if special else "plain"]


@pytest.mark.parametrize("name", GOLDEN["full"])
def test_tokens_of_the_written_lines(name: str) -> None:
    """The same, with a message that shows the line."""
    tokenizer = tokenizer_of(name, special=True)
    for line, ids in zip(WRITTEN, GOLDEN["full"][name], strict=True):
        assert encode(tokenizer, line) == ids, repr(line)


@pytest.mark.parametrize("name", NAMES)
def test_start_and_end(name: str) -> None:
    """Start and end tokens as the kind of tokenizer has them, and where the file wants both."""
    wanted = [raw.pair(f"tokenizer.ggml.add_{end}_token", raw.BOOL, True) for end in ("bos", "eos")]
    for extra, ids in zip(([], wanted), GOLDEN["around"][name], strict=True):
        assert tokenizer_of(name, *extra).encode("A dog").ids == ids


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_the_text_back(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for line in tiny.made_lines():
        expected = line if name in PRE_TOKENIZERS else line.replace("▁", " ")
        if name == "llama":  # it puts a space before each stretch of text
            expected = re.sub(r"<tool>(?!<tool>|\Z)", "<tool> ", expected)
        assert tokenizer.decode(encode(tokenizer, line), skip_special_tokens=False) == expected


def test_control_tokens_are_special_and_user_defined_ones_are_not() -> None:
    added = tokenizer_of("smollm").get_added_tokens_decoder()
    assert {i: (token.content, token.special) for i, token in added.items()} == {
        0: ("<|endoftext|>", True), 1: ("<|im_start|>", True), 2: ("<|im_end|>", True), 3: ("<tool>", False),
    }  # fmt: skip
    assert 1 not in encode(tokenizer_of("smollm"), "<|im_start|><tool>")
    assert encode(tokenizer_of("smollm", special=True), "<|im_start|><tool>") == [1, 3]


def test_the_runtime_reads_it() -> None:
    """Text is only text there, so its tokens are the plain ones."""
    tokenizer = runtime.Tokenizer(tokenizer_json(read(pairs_of("smollm"))).encode())
    reference = tokenizer_of("smollm")
    for line in filter(str.strip, WRITTEN):
        ids = tokenizer.encode(line)
        assert ids == encode(reference, line)
        assert tokenizer.decode(ids) == line


# Vocabularies


def test_vocabulary() -> None:
    extra = [
        raw.pair("tokenizer.ggml.padding_token_id", raw.U32, 0),
        raw.pair("tokenizer.ggml.eot_token_id", raw.U32, 3),
        raw.pair("tokenizer.chat_template", raw.STRING, "{{ messages }}"),
    ]
    found = read([*pairs_of("smollm"), *extra])
    assert (found.model, found.pre_tokenizer) == ("gpt2", "smollm")
    assert (found.start_id, found.end_id, found.unknown_id, found.pad_id) == (1, 2, None, 0)
    assert (found.adds_start, found.adds_end, found.adds_space) == (None, False, False)
    assert found.end_ids == {0, 2, 3}
    assert found.chat_template == "{{ messages }}"
    assert found.types[:5].tolist() == [3, 3, 3, 4, 1]


def test_a_vocabulary_with_defaults() -> None:
    found = read(pairs_of("llama"))
    assert (found.start_id, found.end_id, found.unknown_id, found.pad_id) == (1, 2, 0, None)
    assert (found.pre_tokenizer, found.chat_template, found.adds_space) == ("default", None, True)
    assert found.end_ids == {2}


def pairs_but(name: str, key: str, *replacement: bytes) -> list[bytes]:
    """The metadata of ``name`` with another value for ``key``, or none."""
    return [p for p in pairs_of(name) if not p[8:].startswith(f"tokenizer.ggml.{key}".encode())] + [*replacement]


def array(key: str, kind: int, items: list[Any]) -> bytes:
    return raw.pair(f"tokenizer.ggml.{key}", raw.ARRAY, (kind, items))


BROKEN: dict[str, tuple[list[bytes], str]] = {
    "no tokens": (pairs_but("smollm", "tokens"), "'tokenizer.ggml.tokens' is NoneType, expected an array of strings"),
    "tokens of numbers": (pairs_but("smollm", "tokens", array("tokens", raw.U8, [1])), "is ndarray, expected an array"),
    "empty": (pairs_but("smollm", "tokens", array("tokens", raw.STRING, [])), "has 0 tokens, expected 1 to 1048576"),
    "twice": (
        pairs_but("smollm", "token", array("tokens", raw.STRING, ["a", "b", "a"])),
        "token 'a' is given 2 times, expected distinct tokens",
    ),
    "long token": (
        pairs_but("smollm", "token", array("tokens", raw.STRING, ["a" * 513])),
        "a token has 513 characters, expected at most 512",
    ),
    "types": (
        pairs_but("smollm", "token_type", array("token_type", raw.I32, [1])),
        r"'tokenizer.ggml.token_type' is no array of 700 numbers, one for every token",
    ),
    "scores": (
        pairs_but("llama", "scores", array("scores", raw.F32, [float("nan")] * 700)),
        "'tokenizer.ggml.scores' holds NaN or infinity, expected numbers",
    ),
    "id": (
        pairs_but("smollm", "eos", raw.pair("tokenizer.ggml.eos_token_id", raw.U32, 700)),
        "'tokenizer.ggml.eos_token_id' is 700, expected a token id below 700",
    ),
    "model": (pairs_but("smollm", "model"), "has no metadata 'tokenizer.ggml.model', expected str"),
}


@pytest.mark.parametrize(("pairs", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_vocabulary(pairs: list[bytes], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"v\.gguf: .*{message}.*Convert the checkpoint again"):
        read(pairs)


UNMADE: dict[str, tuple[str, dict[str, Any], str]] = {
    "model": ("smollm", {"model": "bert"}, "tokenizer model 'bert' is not converted, expected one of gpt2, llama"),
    "pre-tokenizer": (
        "smollm",
        {"pre_tokenizer": "default"},
        "pre-tokenizer 'default' is not converted, expected one of",
    ),
    "no merges": ("smollm", {"merges": []}, "a gpt2 tokenizer has no merges, expected one at least"),
    "half a merge": ("smollm", {"merges": ["ab"]}, "merge 0 is 'ab', expected two tokens that make one"),
    "merge of none": ("smollm", {"merges": ["a 中"]}, "merge 0 is 'a 中', expected two tokens that make one"),
    "bytes": (
        "llama",
        {"tokens": ["<unk>", "<s>", "</s>", "<0x00>"], "types": np.array([2, 3, 3, 6])},
        r"a llama tokenizer lacks \['<0x01>', '<0x02>', '<0x03>'\], expected all 256 byte tokens",
    ),
}


@pytest.mark.parametrize(("name", "change", "message"), UNMADE.values(), ids=UNMADE.keys())
def test_a_vocabulary_that_makes_no_tokenizer(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer_json(dataclasses.replace(read(pairs_of(name)), **change))


def parts_vocabulary(length: int) -> Vocabulary:
    """The byte tokens, and every part of a text whose characters all differ."""
    text = "".join(chr(0x4E00 + at) for at in range(length))
    parts = [text[a:b] for a in range(length) for b in range(a + 1, length + 1)]
    tokens = ["<unk>", *(f"<0x{value:02X}>" for value in range(256)), *parts]
    return dataclasses.replace(
        read(pairs_of("llama")),
        tokens=tokens,
        types=np.full(len(tokens), 1, np.int32),
        scores=np.zeros(len(tokens), np.float32),
    )


def test_every_cut_of_every_part_is_a_merge() -> None:
    """A part of n characters is cut in n - 1 places, and there are 20 - n + 1 such parts."""
    merges = json.loads(tokenizer_json(parts_vocabulary(20)))["model"]["merges"]
    assert len(merges) == sum((n - 1) * (21 - n) for n in range(1, 21)) == len({tuple(merge) for merge in merges})


def test_too_many_characters_in_merges() -> None:
    """3.5 million merges out of some 40,000 tokens: refused before memory is filled."""
    tracemalloc.start()
    vocabulary = parts_vocabulary(276)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    with pytest.raises(TokenizerError, match=r"of 38483 tokens has .* expected at most 4000000 of 64000000: use"):
        tokenizer_json(vocabulary)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 128 << 20


@pytest.mark.parametrize(("name", "total"), [("MAX_PAIRS", 1330), ("MAX_PAIR_CHARACTERS", 14630)])
def test_the_limits_of_merges(monkeypatch: pytest.MonkeyPatch, name: str, total: int) -> None:
    """The sums over n = 1..20 of (n - 1) (21 - n) merges, and of n times as many characters: at most, not below."""
    vocabulary = parts_vocabulary(20)
    monkeypatch.setattr(merges, name, total)
    tokenizer_json(vocabulary)
    monkeypatch.setattr(merges, name, total - 1)
    with pytest.raises(TokenizerError, match=rf"has at least \d+ merges of \d+ characters, expected .*\b{total - 1}\b"):
        tokenizer_json(vocabulary)
