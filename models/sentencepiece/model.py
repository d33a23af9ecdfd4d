"""What a SentencePiece model file says, read as untrusted input.

Source: ``sentencepiece_model.proto`` of github.com/google/sentencepiece, release 0.2.1, ``ModelProto`` and the messages
in it; https://protobuf.dev/programming-guides/encoding/ for the wire format. Fields of training are passed over.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import TokenizerError

MAX_FILE_BYTES = 64 << 20
MAX_PIECES = 1 << 20
MAX_PIECE_BYTES = 2048
UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces: what a piece is for."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = {1: "unigram", BPE: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token: what it is spelled, its log-probability (unigram) or rank (BPE), and what it is for."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """The pieces by id, and what is done to a text before it is cut into them.

    ``charsmap``: the compiled normalization rules, empty for none. ``adds_prefix``: a space before every text.
    ``strips``: no spaces at the ends, and single ones between.
    """

    kind: int
    pieces: tuple[Piece, ...]
    charsmap: bytes
    adds_prefix: bool
    strips: bool
    byte_fallback: bool

    @property
    def unknown(self) -> int:
        """Id of the piece for what no piece spells."""
        return next(i for i, piece in enumerate(self.pieces) if piece.kind == UNKNOWN)


def read_model(file: Path) -> SentencePieceModel:
    """Read a ``.model`` or ``.spm`` file.

    Raises:
        TokenizerError: missing, too large, or see :func:`parse_model`.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TokenizerError(f"{file}: expected a SentencePiece model, got {error.strerror}: copy it again") from error
    if len(data) > MAX_FILE_BYTES:
        raise TokenizerError(f"{file} has more than {MAX_FILE_BYTES} bytes, the most that edgewise reads")
    return parse_model(data, str(file))


def parse_model(data: bytes, where: str) -> SentencePieceModel:
    """The model in ``data``; ``where`` begins messages.

    Raises:
        TokenizerError: truncated or malformed, without pieces or with a wrong one, or of a kind that is not converted.
    """
    reader = _Reader(data, where)
    pieces: list[Piece] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    charsmap = b""
    for number, value in reader.fields(0, len(data)):
        if number == 1:
            pieces.append(reader.piece(value))
            if len(pieces) > MAX_PIECES:
                raise reader.fault(f"has more than {MAX_PIECES} pieces")
        elif number == 2:
            trainer = {n: v for n, v in reader.fields(*reader.span(value)) if isinstance(v, int)}
        elif number == 3:
            for inner, found in reader.fields(*reader.span(value)):
                if inner == 2:
                    charsmap = reader.payload(found)
                elif isinstance(found, int):
                    normalizer[inner] = found
        elif number == 5 and any(inner == 2 and reader.payload(v) for inner, v in reader.fields(*reader.span(value))):
            raise reader.fault("changes texts after decoding (denormalizer_spec), which is not converted")
    _check(reader, pieces, trainer, normalizer, charsmap)
    return SentencePieceModel(
        kind=trainer.get(3, UNIGRAM),
        pieces=tuple(pieces),
        charsmap=charsmap,
        adds_prefix=bool(normalizer.get(3, 1)),
        strips=bool(normalizer.get(4, 1)),
        byte_fallback=bool(trainer.get(35, 0)),
    )


def _check(
    reader: _Reader, pieces: list[Piece], trainer: dict[int, int], normalizer: dict[int, int], charsmap: bytes
) -> None:
    kind = trainer.get(3, UNIGRAM)
    if kind not in (UNIGRAM, BPE):
        raise reader.fault(f"is of kind {_KINDS.get(kind, str(kind))!r}, expected 'unigram' or 'bpe'")
    if trainer.get(24, 0):
        raise reader.fault("puts spaces behind words (treat_whitespace_as_suffix), which is not converted")
    if not normalizer.get(5, 1):
        raise reader.fault("does not write spaces as ▁ (escape_whitespaces is false), which is not converted")
    if not pieces:
        raise reader.fault("has no pieces")
    text, times = Counter(piece.text for piece in pieces).most_common(1)[0]
    if times > 1:
        raise reader.fault(f"gives the piece {text[:60]!r} {times} times, expected distinct pieces")
    unknown = sum(piece.kind == UNKNOWN for piece in pieces)
    if unknown != 1:
        raise reader.fault(f"has {unknown} pieces of the type UNKNOWN, expected 1")
    if trainer.get(35, 0):
        known = {piece.text for piece in pieces if piece.kind == BYTE}
        missing = [name for name in BYTE_TEXTS if name not in known]
        if missing:
            raise reader.fault(f"falls back to bytes and lacks {', '.join(missing[:3])}, expected all 256")
    _check_charsmap(reader, charsmap)


BYTE_TEXTS = [f"<0x{value:02X}>" for value in range(256)]


def _check_charsmap(reader: _Reader, charsmap: bytes) -> None:
    """The size of a trie of 4-byte units, the trie, and the texts that replace what it finds."""
    if not charsmap:
        return
    size = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or size % 4 or size > len(charsmap) - 4:
        raise reader.fault(f"has normalization rules of {len(charsmap)} bytes with a trie of {size}: they are damaged")
    try:
        charsmap[4 + size :].decode()
    except UnicodeDecodeError:
        raise reader.fault(
            "has normalization rules that replace characters by what is not UTF-8: they are damaged"
        ) from None


_Value = int | tuple[int, int]  # a varint, or where a payload begins and ends


class _Reader:
    """The wire format: every length is compared with what there is; nothing recurses."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data, self._where = data, where

    def fault(self, what: str) -> TokenizerError:
        """The error of a file that cannot be taken."""
        return TokenizerError(f"{self._where} {what}: copy the SentencePiece model again, or use a tokenizer.json")

    def fields(self, position: int, end: int) -> Iterator[tuple[int, _Value]]:
        """Number and value of every field from ``position`` to ``end``."""
        while position < end:
            key, position = self._varint(position, end)
            wire = key & 7
            if wire == _VARINT:
                value, position = self._varint(position, end)
                yield key >> 3, value
                continue
            if wire == _BYTES:
                length, position = self._varint(position, end)
            elif wire in (_FIXED32, _FIXED64):
                length = 4 if wire == _FIXED32 else 8
            else:
                raise self.fault(f"has wire type {wire} at byte {position}, which no field has")
            if length > end - position:
                raise self.fault(f"is truncated: {length} bytes announced at byte {position}, {end - position} there")
            yield key >> 3, (position, position + length)
            position += length

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise self.fault(f"is truncated inside a number at byte {position}")
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise self.fault(f"has a number of more than 10 bytes at byte {position}")

    def span(self, value: _Value) -> tuple[int, int]:
        """Where a payload lies."""
        if isinstance(value, int):
            raise self.fault("has a number where a message is expected")
        return value

    def payload(self, value: _Value) -> bytes:
        """The bytes of a payload."""
        begin, end = self.span(value)
        return self._data[begin:end]

    def piece(self, value: _Value) -> Piece:
        """A ``SentencePiece`` message."""
        text, score, kind = b"", 0.0, NORMAL
        for number, found in self.fields(*self.span(value)):
            if number == 1:
                text = self.payload(found)
            elif number == 2:
                raw = self.payload(found)
                score = struct.unpack("<f", raw)[0] if len(raw) == 4 else math.nan
            elif number == 3 and isinstance(found, int):
                kind = found
        if not 0 < len(text) <= MAX_PIECE_BYTES:
            raise self.fault(f"has a piece of {len(text)} bytes, expected 1 to {MAX_PIECE_BYTES}")
        if not math.isfinite(score):
            raise self.fault(f"has the score {score} for {text[:60]!r}, expected a finite float32")
        if not NORMAL <= kind <= BYTE:
            raise self.fault(f"has a piece of type {kind}, expected {NORMAL} to {BYTE}")
        try:
            return Piece(text=text.decode(), score=score, kind=kind)
        except UnicodeDecodeError:
            raise self.fault(f"has a piece that is not UTF-8: {text[:20]!r}") from None
