"""Weights as integers: symmetric, per output channel or per block of inputs.

The largest weight of a block is 127 of its scale, or any whole number down to 64 of a larger one: that of least squared
error is taken. In weights that were learned or drawn it lowers the square by a fifth. In those that lay on a few levels
before, as of a GGUF file in four bits, some scale nearly divides them all, and six sevenths of the square go.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError

BLOCK = 32
"""Inputs that share a scale in a blocked matrix."""
MOST = 127
"""Of a scale: the largest weight of a row, and at most of a block."""
_LEAST = 64  # of a larger scale half is tried as well, which has all its levels
_CHUNK = 1 << 10  # blocks: what is worked on at once stays in the cache
SMALLEST_SCALE = 1e-20
"""The scale of zeros: not 0, to divide by it; not 1, for MatMulNBits rounds at the size of ``128 * scale``."""


class PerChannel(NamedTuple):
    """``weight = values * scale``: ``values (N, K)`` int8, ``scale (N, 1)`` float32."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]


class Blocked(NamedTuple):
    """``weight = (values - 128) * scale``: ``values (N, K/32, 32)`` uint8, ``scale (N, K/32)`` float32."""

    values: NDArray[np.uint8]
    scale: NDArray[np.float32]


def per_channel(weight: NDArray[np.float32]) -> PerChannel:
    """Round ``weight (N, K)`` to 255 levels a row; a row of zeros stays zeros."""
    scale = _scale(np.abs(weight).max(axis=1, keepdims=True))
    return PerChannel(np.rint(weight / scale).astype(np.int8), scale)


def blocked(weight: NDArray[np.float32]) -> Blocked:
    """Round ``weight (N, K)`` to at most 255 levels a block of 32 inputs.

    Raises:
        ExportError: ``K`` is no multiple of 32.
    """
    if weight.shape[1] % BLOCK:
        raise ExportError(
            f"a matrix of {weight.shape[1]} inputs does not divide into blocks of {BLOCK}: "
            "carry it by another kernel than int8-blocks"
        )
    blocks = weight.reshape(-1, BLOCK)
    parts = [_best_scale(blocks[start : start + _CHUNK]) for start in range(0, len(blocks), _CHUNK)]
    scale = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    values = (np.rint(blocks / scale[:, None]) + 128).astype(np.uint8)
    return Blocked(values.reshape(len(weight), -1, BLOCK), scale.reshape(len(weight), -1))


def kept_by_blocks(weight: NDArray[np.float32]) -> bool:
    """Whether :func:`blocked` gives ``weight (N, K)`` back to the bit, as it does the weights of a Q8_0 file."""
    if weight.shape[1] % BLOCK:
        return False
    values, scale = blocked(weight)
    return bool(((values - np.float32(128)) * scale[:, :, None] == weight.reshape(values.shape)).all())


def _best_scale(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scale of least squared error of each of ``blocks (n, 32)``; of equally good ones the smallest.

    In float64, for two that differ little must not change places with the order of a sum.
    """
    largest, exact = np.abs(blocks).max(axis=1), blocks.astype(np.float64)
    scale, least = _scale(largest), np.full(len(blocks), np.inf)
    for levels in range(MOST, _LEAST - 1, -1):
        tried = _scale(largest, levels)
        in_scales = exact / tried[:, None]
        in_scales -= np.rint(in_scales)
        error = np.einsum("nk,nk->n", in_scales, in_scales) * tried.astype(np.float64) ** 2
        better = error < least
        scale[better], least[better] = tried[better], error[better]
    return scale


def _scale(largest: NDArray[np.float32], levels: int = MOST) -> NDArray[np.float32]:
    return np.maximum(largest / levels, SMALLEST_SCALE).astype(np.float32)
