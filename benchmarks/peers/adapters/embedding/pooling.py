"""What every system without a pooling of its own needs: padding before the network, and the mean of a text after it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cell import Tokens, Vectors


def padded(sources: Tokens, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right-padded ids ``(B, S)`` and their mask ``(B, S)`` of ones and zeros."""
    longest = max(map(len, sources))
    ids = np.array([[*source, *[pad_id] * (longest - len(source))] for source in sources], dtype=np.int64)
    mask = np.array([[1] * len(source) + [0] * (longest - len(source)) for source in sources], dtype=np.int64)
    return ids, mask


def mean_pooled(hidden: NDArray[Any], mask: NDArray[np.int64]) -> Vectors:
    """Hidden states ``(B, S, D)`` to their means over the tokens of ``mask (B, S)``, each of length 1."""
    weights = (mask / mask.sum(1, keepdims=True)).astype(np.float32)
    means = np.einsum("bsd,bs->bd", hidden, weights, dtype=np.float32)
    vectors: Vectors = (means / np.linalg.norm(means, axis=1, keepdims=True)).tolist()
    return vectors
