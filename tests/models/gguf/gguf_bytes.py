"""GGUF files as bytes, straight from the specification and without any check, for files that no library would write."""

from __future__ import annotations

import struct
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_SCALAR = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, item: Any) -> bytes:
    """An array is given as ``(kind of its elements, elements)``."""
    if kind == STRING:
        return text(item)
    if kind == ARRAY:
        inner, elements = item
        return struct.pack("<IQ", inner, len(elements)) + b"".join(value(inner, e) for e in elements)
    return struct.pack("<" + _SCALAR[kind], item)


def pair(key: str, kind: int, item: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, item)


def tensor_info(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def header(n_tensors: int, n_pairs: int, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, n_tensors, n_pairs)


def file(pairs: list[bytes], infos: list[bytes], data: bytes, *, alignment: int = 32, version: int = 3) -> bytes:
    head = header(len(infos), len(pairs), version) + b"".join(pairs) + b"".join(infos)
    return head + b"\0" * (-len(head) % alignment) + data
