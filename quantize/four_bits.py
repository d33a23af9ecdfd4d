"""Weights as integers of four bits: 16 levels between the least and the largest of every 32 inputs.

Rounding to the nearest level leaves open which levels. Those from the least to the largest weight waste some where
these two stand alone, so a few narrower ranges are tried, and scale and minimum are fitted to what was rounded; of all,
each block keeps those of least squared error (as ``make_qkx2_quants`` in ``ggml/src/ggml-quants.c`` of llama.cpp does).
One more range is that of llama.cpp's Q4_0, eight steps on the side of the largest weight and seven on the other, taken
only where it loses nothing: of weights that came out of such a file every number is kept to the bit.

A block's minimum is any number, as in llama.cpp's Q4_1, and not a multiple of its scale: of weights that came out of
such a file nothing is lost but the last bits of float32. (With the nearest multiple SmolLM2-135M kept 77 % of its best
tokens.) ``MatMulNBits`` knows multiples only, so what remains of the minimum is a product of its own, of the sums of
each block of inputs.
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
_NOTHING = 1e-4  # of a scale: less is the rounding of float32
_CHUNK = 1 << 13  # blocks: what is worked on at once stays in the cache

Floats = NDArray[np.float32]


class FourBits(NamedTuple):
    """``weight = (value - zero_point) * scale + offset``, the first three as ``MatMulNBits`` stores them.

    ``values (N, K/32, 16)`` uint8, two to a byte, the earlier in the low half; ``scale (N, K/32)`` float32;
    ``zero_point (N, ceil(K/64))`` uint8, packed as the values are. ``offset (N, K/32)`` float32, at most half a scale
    where a block has weights of both signs; ``None`` where there is none to speak of.
    """

    values: NDArray[np.uint8]
    scale: Floats
    zero_point: NDArray[np.uint8]
    offset: Floats | None


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
    levels, scale, minimum = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    zero_point = np.clip(np.rint(-minimum / scale), 0, LEVELS).astype(np.float32)
    offset = minimum + zero_point * scale
    zeros = zero_point.astype(np.uint8).reshape(n, -1)
    if zeros.shape[1] % 2:
        zeros = np.pad(zeros, [(0, 0), (0, 1)])
    return FourBits(
        values=_pairs(levels.astype(np.uint8)).reshape(n, -1, BLOCK // 2),
        scale=scale.reshape(n, -1),
        zero_point=_pairs(zeros),
        offset=offset.reshape(n, -1) if (np.abs(offset) > _NOTHING * scale).any() else None,
    )


def _rounded(blocks: Floats) -> tuple[Floats, Floats, Floats]:
    """Levels ``(n, 32)``, scales ``(n,)`` and minima ``(n,)`` of ``blocks (n, 32)``."""
    low = blocks.min(axis=1)
    width = blocks.max(axis=1) - low
    best = _tried(blocks, low, width)
    ranges = [(low + width * np.float32((1 - share) / 2), width * np.float32(share)) for share in RANGES[1:]]
    exact = _tried(blocks, *_eight_and_seven(blocks))
    exact[3][exact[3] > 0] = np.inf  # taken for other weights as well, it moved a shipped network past its bounds
    for found in (exact, *(_tried(blocks, *tried) for tried in ranges)):
        better = found[3] < best[3]
        for kept, new in zip(best, found, strict=True):
            kept[better] = new[better]
    return best[:3]


def _eight_and_seven(blocks: Floats) -> tuple[Floats, Floats]:
    """Where the levels of Q4_0 begin, and how wide they are together; each ``(n,)``."""
    least, most = blocks.min(axis=1), blocks.max(axis=1)
    step = np.maximum(-least, most) / np.float32(8)
    return np.where(-least >= most, -8 * step, -7 * step).astype(np.float32), LEVELS * step


def _tried(blocks: Floats, low: Floats, width: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """As :func:`_rounded`, by the levels that divide ``width`` from ``low`` on, and the squared error ``(n,)``.

    Where fitting has nothing to mend, these stay as they are, free of its rounding.
    """
    step = np.maximum(width / LEVELS, SMALLEST_SCALE).astype(np.float32)
    levels = np.clip(np.rint((blocks - low[:, None]) / step[:, None]), 0, LEVELS)
    scale, minimum = _fitted(blocks, levels, step)
    error, plain = _squared(blocks, levels, scale, minimum), _squared(blocks, levels, step, low)
    as_is = plain == 0
    scale[as_is], minimum[as_is], error[as_is] = step[as_is], low[as_is], plain[as_is]
    return levels, scale, minimum, error


def _squared(blocks: Floats, levels: Floats, scale: Floats, minimum: Floats) -> Floats:
    off = blocks - (levels * scale[:, None] + minimum[:, None])
    error: Floats = np.einsum("nk,nk->n", off, off)
    return error


def _fitted(blocks: Floats, levels: Floats, step: Floats) -> tuple[Floats, Floats]:
    """Scale and minimum of least squared error for given ``levels (n, 32)``: a line through 32 points."""
    mean, level = blocks.mean(axis=1), levels.mean(axis=1)
    centred = levels - level[:, None]
    squares = np.einsum("nk,nk->n", centred, centred)
    slope = np.einsum("nk,nk->n", centred, blocks - mean[:, None]) / np.maximum(squares, 1e-9)
    scale = np.where(slope > SMALLEST_SCALE, slope, step).astype(np.float32)  # of equal weights there is no slope
    return scale, (mean - level * scale).astype(np.float32)


def _pairs(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Neighbours of a row to one byte, the earlier in the low half."""
    return values[:, ::2] | values[:, 1::2] << np.uint8(4)
