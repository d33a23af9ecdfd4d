"""What a graph that sees whole sentences reads of their tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import signature as names
from ..engine import Floats, Ids


def whole_sentences(ids: Ids) -> dict[str, NDArray[Any]]:
    """Inputs of one pass over ``ids (N, T)`` from their beginning; padding on the right is where no token looks."""
    positions = np.ascontiguousarray(np.broadcast_to(np.arange(ids.shape[1]), ids.shape))
    return {
        names.IDS: np.ascontiguousarray(ids),
        names.POSITIONS: positions,
        names.KEY_MASK: np.ones(ids.shape, np.bool_),
    }


def no_states(ids: Ids) -> Floats:
    """Hidden states ``(B, S, 0)`` of a graph that gives none."""
    return np.zeros((*ids.shape, 0), np.float32)
