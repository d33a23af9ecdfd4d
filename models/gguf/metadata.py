"""Typed look-ups in the metadata of a GGUF file."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from ...errors import CheckpointError
from .reader import GgufFile

_T = TypeVar("_T", int, float, str, bool)
_MISSING: Any = object()


def lookup(file: GgufFile, key: str, kind: type[_T], default: _T = _MISSING) -> _T:
    """The value of ``key``, which must be of type ``kind``; without a ``default`` it must be there.

    Raises:
        CheckpointError: missing, or of another type.
    """
    value = file.metadata.get(key, default)
    if value is _MISSING:
        refuse(file, f"has no metadata {key!r}, expected {kind.__name__}")
    if type(value) is not kind:  # a bool is no int here
        shown = repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
        refuse(file, f"metadata {key!r} is {shown}, expected {kind.__name__}")
    return value


def refuse(file: GgufFile, fault: str) -> NoReturn:
    """Raise for one fault of a file's contents.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(f"{file.path}: {fault}. Convert the checkpoint again")
