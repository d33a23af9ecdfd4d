"""Log-probabilities of logits, in float64 whatever the engine computes in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .engine import Floats


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Log-probabilities ``(..., V)`` of ``logits (..., V)``; minus infinity stays, even where it is all there is."""
    wide = logits.astype(np.float64)
    best = wide.max(axis=-1, keepdims=True)
    nothing = best == -np.inf
    wide -= np.where(nothing, 0.0, best)
    total = np.exp(wide).sum(axis=-1, keepdims=True)
    wide -= np.log(np.where(nothing, 1.0, total))
    return wide
