"""Of sentences that joined one run: their cross-attention inputs, whose sources differ in length, and their room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ContextLengthError
from ..bundle import signature as names

Sources = Mapping[str, NDArray[Any]]
"""By input name: keys and values ``(B, H, S, Dh)`` of every layer, and their mask ``(B, S)``; none without encoder."""


def joined(first: Sources, second: Sources) -> dict[str, NDArray[Any]]:
    """The sentences of ``first``, then those of ``second``, padded to the longest that is still there."""
    if not first:
        return dict(second)
    width = max(_longest(first), _longest(second))
    return {name: np.concatenate([_fitted(first[name], width), _fitted(second[name], width)]) for name in first}


def chosen(sources: Sources, sentences: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Those of some ``sentences``."""
    return {name: array[sentences] for name, array in sources.items()}


def _longest(sources: Sources) -> int:
    return int(sources[names.CROSS_MASK].sum(axis=1).max(initial=1))


def _fitted(array: NDArray[Any], width: int) -> NDArray[Any]:
    """``array`` with ``S`` made ``width``: cut where only padding stands, or padded with zeros."""
    axis = 1 if array.ndim == 2 else 2
    found = array[(slice(None),) * axis + (slice(0, width),)]
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, width - found.shape[axis])
    return np.pad(found, padding)


def check_room(tokens: int, capacity: int) -> None:
    """Refuse more ``tokens`` of a sentence than it joined to read.

    Raises:
        ContextLengthError: it has no room for them.
    """
    if tokens > capacity:
        raise ContextLengthError(
            f"{tokens} tokens do not fit the {capacity} this sentence joined with: let it join with more"
        )
