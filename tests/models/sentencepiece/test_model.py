"""Model files as untrusted input: what is read, and every refusal."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from edgewise.errors import TokenizerError
from edgewise.models.sentencepiece import model
from edgewise.models.sentencepiece.model import BYTE, parse_model, read_model
from edgewise.models.sentencepiece.tokenizer import tokenizer_json
from edgewise.runtime.tokenizer import Tokenizer

from .trained import library, trained


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found, value = found + bytes([value & 0x7F | 0x80]), value >> 7
    return found + bytes([value])


def message(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def piece(text: bytes, score: float = -1.0, kind: int = 1) -> bytes:
    return message(1, message(1, text) + varint(2 << 3 | 5) + struct.pack("<f", score) + integer(3, kind))


PIECES = piece(b"<unk>", 0.0, 2) + piece(b"a")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unigram, bytes", "bpe", "unigram, case folded"])
def test_pieces_are_those_of_the_library(case: str) -> None:
    theirs, ours = library(trained(case)), parse_model(trained(case), "x")
    assert [p.text for p in ours.pieces] == [theirs.id_to_piece(i) for i in range(len(theirs))]
    assert [p.score for p in ours.pieces] == [theirs.get_score(i) for i in range(len(theirs))]
    assert [p.kind == BYTE for p in ours.pieces] == [theirs.is_byte(i) for i in range(len(theirs))]
    assert ours.unknown == theirs.unk_id()
    assert ours.byte_fallback == (case == "unigram, bytes")


def test_defaults_are_those_of_the_message() -> None:
    found = parse_model(PIECES + message(99, b"of a later version"), "x")
    assert (found.kind, found.charsmap, found.adds_prefix, found.strips, found.byte_fallback) == (
        model.UNIGRAM, b"", True, True, False,
    )  # fmt: skip


REFUSED = {
    "has no pieces": b"",
    "is truncated: 9 bytes announced at byte 2, 1 there": b"\x0a\x09x",
    "is truncated inside a number at byte 1": b"\x80",
    "has a number of more than 10 bytes": b"\xff" * 12,
    "has wire type 3 at byte 1": b"\x0b",
    "has a number where a message is expected": integer(1, 5),
    "has a piece of 0 bytes, expected 1 to 2048": piece(b""),
    "has a piece of 2049 bytes": piece(b"a" * 2049),
    "has the score nan for b'a', expected a finite": piece(b"a", float("nan")),
    "has a piece of type 7, expected 1 to 6": piece(b"a", kind=7),
    r"has a piece that is not UTF-8: b'\\xff'": piece(b"\xff"),
    "gives the piece 'a' 2 times, expected distinct": PIECES + piece(b"a"),
    "has 0 pieces of the type UNKNOWN, expected 1": piece(b"a"),
    "is of kind 'word', expected 'unigram' or 'bpe'": PIECES + message(2, integer(3, 3)),
    "puts spaces behind words": PIECES + message(2, integer(24, 1)),
    "does not write spaces as ▁": PIECES + message(3, integer(5, 0)),
    "falls back to bytes and lacks <0x00>, <0x01>, <0x02>": PIECES + message(2, integer(35, 1)),
    "has normalization rules of 5 bytes with a trie of 8": PIECES + message(3, message(2, b"\x08\0\0\0x")),
    "replace characters by what is not UTF-8": PIECES + message(3, message(2, b"\0\0\0\0\xff")),
    "changes texts after decoding": PIECES + message(5, message(2, b"\0\0\0\0")),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_wrong_is_said(reason: str) -> None:
    with pytest.raises(TokenizerError, match=f"^odd.model .*{reason}.*: copy the SentencePiece model again"):
        parse_model(REFUSED[reason], "odd.model")


def test_too_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_PIECES", 2)
    parse_model(PIECES, "x")
    with pytest.raises(TokenizerError, match="has more than 2 pieces"):
        parse_model(PIECES + piece(b"b"), "x")


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.spm"
    with pytest.raises(TokenizerError, match=r"a\.spm: expected a SentencePiece model, got No such file"):
        read_model(file)
    file.write_bytes(PIECES)
    assert len(read_model(file).pieces) == 2
    monkeypatch.setattr(model, "MAX_FILE_BYTES", 10)
    with pytest.raises(TokenizerError, match=r"a\.spm has more than 10 bytes, the most that edgewise reads"):
        read_model(file)


@pytest.mark.slow
def test_damaged_bytes_give_a_model_or_a_typed_error() -> None:
    data, generator = trained("unigram"), random.Random(1)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(data[: generator.randrange(len(data))] if generator.random() < 0.3 else data)
        for _ in range(generator.randint(1, 8)):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            Tokenizer(tokenizer_json(parse_model(bytes(damaged), "x")).encode()).encode("A man rides, ﬁ ½.")
            outcomes.add("model")
        except TokenizerError:
            outcomes.add("refused")
    assert outcomes == {"model", "refused"}
