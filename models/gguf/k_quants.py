"""K-quants to float32: super-blocks of 256 values, in groups of 16 or 32 whose scales are integers too.

Every function takes ``blocks (n, block_bytes)`` uint8 and gives ``(n, 256)`` float32. A value is ``d * scale * q``,
less ``dmin * minimum`` in the types that have one; ``d`` and ``dmin`` are float16 for the whole super-block.

Source: ``dequantize_row_q*_K`` in ``ggml/src/ggml-quants.c``, layouts in ``ggml/src/ggml-common.h`` of llama.cpp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def q2_k(blocks: Bytes) -> Floats:
    """Layout: 16 bytes of scale (low half) and minimum (high half), 64 bytes of 2-bit values, d, dmin."""
    scales, packed = blocks[:, :16], blocks[:, 16:80]
    scale = half(blocks, 80) * (scales & 0x0F).astype(np.float32)
    minimum = half(blocks, 82) * (scales >> 4).astype(np.float32)
    return _spread(scale, minimum, _two_bits(packed))


def q3_k(blocks: Bytes) -> Floats:
    """Layout: 32 bytes of high bits, 64 bytes of low 2 bits, 12 bytes of 6-bit scales, d. A high bit of 0 means -4."""
    high = _planes(blocks[:, :32], 8)
    low = _two_bits(blocks[:, 32:96])
    values = low.astype(np.float32) - (4 - 4 * high.astype(np.float32))
    scale = half(blocks, 108) * (_q3_scales(blocks[:, 96:108]) - 32)
    return _spread(scale, None, values)


def q4_k(blocks: Bytes) -> Floats:
    """Layout: d, dmin, 12 bytes of 6-bit scales and minima, 128 bytes of 4-bit values."""
    scale, minimum = _scales_and_minima(blocks)
    return _spread(scale, minimum, _four_bits(blocks[:, 16:], 32))


def q5_k(blocks: Bytes) -> Floats:
    """Layout: d, dmin, 12 bytes of 6-bit scales and minima, 32 bytes of fifth bits, 128 bytes of low 4 bits."""
    scale, minimum = _scales_and_minima(blocks)
    values = _four_bits(blocks[:, 48:], 32) | (_planes(blocks[:, 16:48], 8) << 4)
    return _spread(scale, minimum, values)


def q6_k(blocks: Bytes) -> Floats:
    """Layout: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 int8 scales, d. Values are offset by 32."""
    values = _four_bits(blocks[:, :128], 64) | (_two_bits(blocks[:, 128:192]) << 4)
    scale = half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return _spread(scale, None, values.astype(np.float32) - 32)


def q8_k(blocks: Bytes) -> Floats:
    """Layout: d as float32, 256 int8 values, 16 int16 sums that dequantizing does not need."""
    return blocks[:, :4].copy().view("<f4") * blocks[:, 4:260].view(np.int8).astype(np.float32)


def half(blocks: Bytes, start: int) -> Floats:
    """The float16 at byte ``start`` of every block, as float32 ``(n, 1)``."""
    return blocks[:, start : start + 2].copy().view("<f2").astype(np.float32)


def _spread(scale: Floats, minimum: Floats | None, values: NDArray[np.generic]) -> Floats:
    """``scale * values - minimum``, where every group of a super-block has its own ``scale`` and ``minimum``."""
    grouped = values.reshape(*scale.shape, -1).astype(np.float32)
    out = scale[:, :, None] * grouped
    if minimum is not None:
        out -= minimum[:, :, None]
    return out.reshape(len(values), -1)


def _planes(packed: Bytes, count: int) -> Bytes:
    """Bit ``i`` of every byte, plane after plane: ``(n, 32) -> (n, count * 32)``."""
    return np.concatenate([(packed >> bit) & 1 for bit in range(count)], axis=1)


def _two_bits(packed: Bytes) -> Bytes:
    """``(n, 64)`` bytes to ``(n, 256)``: each half of 32 bytes gives its four pairs of bits, lowest first."""
    halves = packed.reshape(len(packed), 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return ((halves >> shifts) & np.uint8(3)).reshape(len(packed), -1)


def _four_bits(packed: Bytes, group: int) -> Bytes:
    """``(n, 128)`` bytes to ``(n, 256)``: each ``group`` bytes give their low halves, then their high halves."""
    groups = packed.reshape(len(packed), -1, 1, group)
    shifts = np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    return ((groups >> shifts) & np.uint8(15)).reshape(len(packed), -1)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """Eight 6-bit scales and minima of Q4_K and Q5_K in 12 bytes: four whole ones each, then four in two parts."""
    low, high, split = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale = np.concatenate([low & 63, (split & 0x0F) | (low >> 6 << 4)], axis=1)
    minimum = np.concatenate([high & 63, (split >> 4) | (high >> 6 << 4)], axis=1)
    return half(blocks, 0) * scale.astype(np.float32), half(blocks, 2) * minimum.astype(np.float32)


def _q3_scales(packed: Bytes) -> Floats:
    """Sixteen 6-bit scales in 12 bytes: low halves of the first 8 bytes, then their high halves, and 2 bits on top."""
    low = np.concatenate([packed[:, :8] & 0x0F, packed[:, :8] >> 4], axis=1)
    top = np.concatenate([(packed[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales: Floats = (low | (top << 4)).astype(np.float32)
    return scales
