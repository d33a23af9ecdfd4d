"""Weights as integers of four bits: 16 levels between the least and the largest of every 32 inputs.

Rounding to the nearest level leaves open which levels. Those from the least to the largest weight waste some where
these two stand alone, so a few narrower ranges are tried and the scale is fitted to what was rounded; of all, each
block keeps the one of least squared error (as ``make_qkx2_quants`` in ``ggml/src/ggml-quants.c`` of llama.cpp does).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from .tensors import BLOCK, SMALLEST_SCALE

LEVELS = 15
RANGES = tuple(1 - 0.04 * i for i in range(7))
"""Ranges that are tried, in that from the least to the largest weight."""
_CHUNK = 1 << 13  # blocks: what is worked on at once stays in the cache

Floats = NDArray[np.float32]


class FourBits(NamedTuple):
    """``weight = (value - zero_point) * scale``, as ``MatMulNBits`` stores it.

    ``values (N, K/32, 16)`` uint8, two to a byte, the earlier in the low half; ``scale (N, K/32)`` float32;
    ``zero_point (N, ceil(K/64))`` uint8, packed as the values are.
    """

    values: NDArray[np.uint8]
    scale: Floats
    zero_point: NDArray[np.uint8]


def four_bits(weight: Floats) -> FourBits:
    """Round ``weight (N, K)`` to 16 levels a block of 32 inputs.

    Raises:
        ExportError: ``K`` is no multiple of 32.
    """
    n, k = weight.shape
    if k % BLOCK:
        raise ExportError(
            f"a matrix of {k} inputs does not divide into blocks of {BLOCK}: "
            "carry it by another kernel than int4-blocks"
        )
    blocks = weight.reshape(-1, BLOCK)
    parts = [_rounded(blocks[start : start + _CHUNK]) for start in range(0, len(blocks), _CHUNK)]
    values, scale, zero_point = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    zeros = zero_point.astype(np.uint8).reshape(n, -1)
    if zeros.shape[1] % 2:
        zeros = np.pad(zeros, [(0, 0), (0, 1)])
    return FourBits(_pairs(values.astype(np.uint8)).reshape(n, -1, BLOCK // 2), scale.reshape(n, -1), _pairs(zeros))


def _rounded(blocks: Floats) -> tuple[Floats, Floats, Floats]:
    """Levels ``(n, 32)``, scales ``(n,)`` and zero points ``(n,)`` of ``blocks (n, 32)``."""
    low = np.minimum(blocks.min(axis=1), 0)
    high = np.maximum(blocks.max(axis=1), 0)
    best = _tried(blocks, low, (high - low) / LEVELS)
    for share in RANGES[1:]:
        found = _tried(blocks, low, (high - low) * np.float32(share / LEVELS))
        better = found[3] < best[3]
        for kept, new in zip(best, found, strict=True):
            kept[better] = new[better]
    return best[:3]


def _tried(blocks: Floats, low: Floats, step: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """As :func:`_rounded`, by levels ``step`` apart, and the squared error ``(n,)``."""
    step = np.maximum(step, SMALLEST_SCALE).astype(np.float32)
    zero_point = np.clip(np.rint(-low / step), 0, LEVELS)
    steps = np.clip(np.rint(blocks / step[:, None]), -zero_point[:, None], LEVELS - zero_point[:, None])
    squares = np.einsum("nk,nk->n", steps, steps)
    fitted = np.einsum("nk,nk->n", steps, blocks) / np.maximum(squares, 1)
    scale = np.where(squares > 0, fitted, step).astype(np.float32)
    off = blocks - steps * scale[:, None]
    return steps + zero_point[:, None], scale, zero_point, np.einsum("nk,nk->n", off, off)


def _pairs(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Neighbours of a row to one byte, the earlier in the low half."""
    return values[:, ::2] | values[:, 1::2] << np.uint8(4)
