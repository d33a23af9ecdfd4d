"""tiktoken files that are damaged, and what is refused of them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import TokenizerError
from edgewise.models.tiktoken import ranks
from edgewise.models.tiktoken.ranks import is_tiktoken, parse_ranks, read_ranks

BYTES = [bytes([byte]) for byte in range(256)]


def written(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


WHOLE = written([*BYTES, b"ab"])


def test_tokens_come_by_rank_in_any_order_of_lines() -> None:
    lines = WHOLE.splitlines()
    assert parse_ranks(b"\r\n".join([*lines[::-1], b"", b"= 257"]), "f") == [*BYTES, b"ab", b""]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE + b"YWI= 257\n", r"gives token b'ab' a second time in line 258, expected distinct"),
        (WHOLE + b"YWM= 256\n", r"gives rank 256 a second time in line 258, expected distinct"),
        (WHOLE + b"YWM= 258\n", r"has 258 tokens and none of rank 257, expected ranks from 0 without a gap"),
        (WHOLE + b"YWM 257\n", r"has b'YWM 257' in line 258, no base64 \(Incorrect padding\): copy the tiktoken file"),
        (WHOLE + b"YW=M 257\n", r"has b'YW=M 257' in line 258, no base64"),
        (WHOLE + b"YWM= -1\n", r"has b'YWM= -1' in line 258, expected a token in base64 and its rank"),
        (WHOLE + b"YWM= 12345678\n", "in line 258, expected a token in base64 and its rank"),
        (WHOLE + b"YWM=\n", "expected a token in base64 and its rank"),
        (WHOLE + b"\xff\xfe 257\n", r"has b'\\xff\\xfe 257' in line 258, expected a token"),
        (WHOLE + "YWMé 257\n".encode(), "in line 258, expected a token in base64"),
        (WHOLE + b"A" * 5000, r"has b'A{60}' in line 258, expected a token in base64"),
        (WHOLE + written([b"a" * 513])[:-2] + b"257", "has a token of 513 bytes in line 258, expected at most 512"),
        (written([*BYTES[:7], *BYTES[9:]]), "has no token for 2 bytes, 0x07 the first, expected all 256"),
        (b"", "has no token for 256 bytes, 0x00 the first"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        parse_ranks(data, "tiny.tiktoken")


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(WHOLE)
    monkeypatch.setattr(ranks, "MAX_TOKENS", 256)
    with pytest.raises(TokenizerError, match="has more than 256 tokens"):
        read_ranks(tmp_path / "f")
    monkeypatch.setattr(ranks, "MAX_FILE_BYTES", 99)
    with pytest.raises(TokenizerError, match="has more than 99 bytes, the most that edgewise reads"):
        read_ranks(tmp_path / "f")
    with pytest.raises(TokenizerError, match="expected a tiktoken file, got No such file or directory: copy it again"):
        read_ranks(tmp_path / "g")


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_a_typed_error_or_another_vocabulary(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    try:
        found = parse_ranks(bytes(data), "f")
    except TokenizerError:
        return
    assert len(set(found)) == len(found)
    assert set(BYTES) <= set(found)


def test_what_begins_like_one(tmp_path: Path) -> None:
    for data, expected in ((WHOLE, True), (b"", False), (b"\n\x0e\n\x05<unk>\x15", False), (b"A" * 9999, False)):
        (tmp_path / "f").write_bytes(data)
        assert is_tiktoken(tmp_path / "f") is expected
