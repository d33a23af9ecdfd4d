"""Errors of an iterable that wait for their turn, so that whatever came before them is used first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


def or_error(items: Iterable[_T]) -> Iterator[_T | Exception]:
    """All ``items``, and what ended them where that was an error."""
    try:
        yield from items
    except Exception as error:  # whatever it is, it is raised in its turn
        yield error


def in_lists(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """``items`` in lists of ``size``. Where reading fails, those read before are a list too; then it raises."""
    rest = or_error(items)
    while listed := list(islice(rest, size)):
        good = [item for item in listed if not isinstance(item, Exception)]
        if good:
            yield good
        if isinstance(last := listed[-1], Exception):
            raise last
