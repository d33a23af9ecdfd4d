"""Reading protobuf's wire format within bounds, with no protobuf library: just enough for ONNX graphs.

A message is a span of one ``bytes`` object, read field by field against a table of the fields it may have. Whatever two
readers could take differently (an unknown field, another wire type, a single field given twice) is malformed: what was
checked is what an engine reads. Nothing here recurses.

Source: the encoding document of protobuf, https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

Span = tuple[int, int]
Fields = dict[str, list[Any]]  # a varint as int, everything else as the span of its payload

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_ANY_HIGH_BYTE = bytes(range(0x80, 0x100))
_WIDTH = {FIXED32: 4, FIXED64: 8}
_OVERLONG = re.compile(rb"[\x80-\xff]{10}")


class Malformed(ValueError):
    """The bytes are not such a message; the scan turns this into the error a caller sees."""


class Field(NamedTuple):
    """A field of a message: its name, the wire types it may have, and whether it may be repeated."""

    name: str
    wires: tuple[int, ...]
    repeated: bool = False


Schema = Mapping[int, Field]


def number(name: str) -> Field:
    """One integer or enumeration."""
    return Field(name, (VARINT,))


def real(name: str) -> Field:
    """One 32-bit float."""
    return Field(name, (FIXED32,))


def content(name: str) -> Field:
    """One string, bytes or message."""
    return Field(name, (BYTES,))


def contents(name: str) -> Field:
    """Strings, bytes or messages."""
    return Field(name, (BYTES,), repeated=True)


def packed(name: str, wire: int = VARINT) -> Field:
    """Numbers, packed into one payload or one by one: readers take both."""
    return Field(name, (wire, BYTES), repeated=True)


class Reader:
    """One buffer and the work left to spend on it: at most ``max_fields`` fields in all."""

    def __init__(self, data: bytes, max_fields: int) -> None:
        self.data = data
        self.fields_left = max_fields

    def fields(self, span: Span, schema: Schema, message: str) -> Fields:
        """The fields of the message at ``span``, in order, under their names.

        Raises:
            Malformed: truncated, of another wire type, unknown to ``schema``, or a single field given twice.
        """
        found: Fields = {}
        position, end = span
        while position < end:
            key, position = self.varint(position, end)
            field, wire = schema.get(key >> 3), key & 7
            if field is None:
                raise Malformed(f"field {key >> 3} is none that {message} has")
            name, wires, repeated = field
            if wire not in wires:
                raise Malformed(f"{message}.{name} has wire type {wire}, expected one of {wires}")
            value: int | Span
            if wire == VARINT:
                value, position = self.varint(position, end)
            else:
                value = self._payload(wire, position, end, field)
                position = value[1]
            if name not in found:
                found[name] = [value]
            elif repeated:
                found[name].append(value)
            else:
                raise Malformed(f"{message}.{name} is given twice")
            self.fields_left -= 1
            if self.fields_left < 0:
                raise Malformed("more fields than a graph needs")
        return found

    def _payload(self, wire: int, position: int, end: int, field: Field) -> Span:
        if wire == BYTES:
            length, position = self.varint(position, end)
        else:
            length = _WIDTH[wire]
        if length > end - position:
            raise Malformed(f"{field.name} is truncated: {length} bytes announced, {end - position} there")
        return position, position + length

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """An unsigned integer of at most 64 bits, and where it ends."""
        if position < end and self.data[position] < 0x80:  # nearly all of them
            return self.data[position], position + 1
        value = shift = 0
        while position < end:
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    raise Malformed("an integer of more than 64 bits")
                return value, position
            shift += 7
            if shift > 63:
                raise Malformed("an integer of more than 10 bytes")
        raise Malformed("an integer is truncated")

    def payload(self, span: Span) -> bytes:
        """The payload itself."""
        return self.data[span[0] : span[1]]

    def text(self, span: Span, longest: int) -> str:
        """A payload as UTF-8 of at most ``longest`` bytes."""
        if span[1] - span[0] > longest:
            raise Malformed(f"a name of {span[1] - span[0]} bytes, expected at most {longest}")
        try:
            return self.payload(span).decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"a name is not UTF-8: {self.payload(span)[:20]!r}") from None

    def integers(self, values: list[Any], most: int) -> tuple[int, ...]:
        """Signed 64-bit integers of a repeated field, packed or not, at most ``most`` of them."""
        found: list[int] = []
        for value in values:
            if isinstance(value, int):
                found.append(signed(value))
                continue
            position, end = value
            while position < end and len(found) <= most:
                item, position = self.varint(position, end)
                found.append(signed(item))
        if len(found) > most:
            raise Malformed(f"a list of more than {most} integers")
        return tuple(found)

    def count(self, values: list[Any], wire: int) -> int:
        """How many numbers a repeated field holds, packed or not, without decoding them."""
        total = 0
        for value in values:
            if isinstance(value, int):
                total += 1
                continue
            raw = self.payload(value)
            total += self._packed_count(raw) if wire == VARINT else self._fixed_count(raw, _WIDTH[wire])
        return total

    def _packed_count(self, payload: bytes) -> int:
        if payload and (payload[-1] >= 0x80 or _OVERLONG.search(payload)):
            raise Malformed("a packed integer is truncated or too long")
        return len(payload.translate(None, _ANY_HIGH_BYTE))

    def _fixed_count(self, payload: bytes, width: int) -> int:
        if len(payload) % width:
            raise Malformed(f"{len(payload)} bytes do not hold whole numbers of {width} bytes")
        return len(payload) // width


def signed(value: int) -> int:
    """Two's complement of 64 bits, as protobuf writes negative integers."""
    return value - (1 << 64) if value >> 63 else value
