"""A text longer than a model reads, as windows that overlap."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import InputError
from .options import is_count

OVERLAP = 128
"""Tokens that two neighbouring windows share by default, or half of a window where that is fewer."""


def windows(length: int, room: int, overlap: int | None) -> Iterator[range]:
    """Places ``0`` to ``length`` in windows of at most ``room``, each ``room - overlap`` behind the one before.

    What the ``tokenizers`` library makes of a text that it cuts with ``stride=overlap``.

    Raises:
        InputError: ``overlap`` is no number of tokens, or leaves no room to go on.
    """
    if overlap is None:
        overlap = min(OVERLAP, room // 2)
    if not (overlap == 0 or is_count(overlap)) or isinstance(overlap, bool | float) or overlap >= room:
        raise InputError(f"overlap ({overlap!r}) must be an integer from 0 to {room - 1}: a window has {room} tokens")
    first = 0
    while True:
        yield range(first, min(first + room, length))
        if first + room >= length:
            return
        first += room - overlap
