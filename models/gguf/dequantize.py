"""Stored blocks to float32: the plain types and the blocks of 32.

Every function takes ``blocks (n, block_bytes)`` uint8 and gives ``(n, block_size)`` float32, by the formula and in the
order of operations of llama.cpp, so that results agree with it to the bit. ``d`` is a block's scale, ``m`` its minimum.

Source: ``dequantize_row_*`` in ``ggml/src/ggml-quants.c`` and the layouts in ``ggml/src/ggml-common.h`` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError
from . import k_quants
from .k_quants import half
from .layout import TensorType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_CHUNK_BYTES = 4 << 20  # a large matrix is dequantized by parts: the intermediates are several times its size


def dequantize(raw: Bytes, kind: TensorType) -> Floats:
    """The values of ``raw (..., bytes a row)`` as float32 ``(..., values a row)``.

    Raises:
        CheckpointError: the rows are no whole blocks of ``kind``.
    """
    if raw.shape[-1] % kind.block_bytes:
        raise CheckpointError(
            f"rows of {raw.shape[-1]} bytes are no whole blocks of {kind.name}, of {kind.block_bytes} bytes each: "
            "the tensor is of another type"
        )
    blocks = raw.reshape(-1, kind.block_bytes)
    out = np.empty((len(blocks), kind.block_size), np.float32)
    step = max(1, _CHUNK_BYTES // kind.block_bytes)
    for start in range(0, len(blocks), step):
        out[start : start + step] = _FORMATS[kind.name](np.ascontiguousarray(blocks[start : start + step]))
    return out.reshape(*raw.shape[:-1], -1)


def nibbles(packed: Bytes) -> Bytes:
    """``(n, 16)`` bytes to ``(n, 32)`` values: all low halves, then all high halves."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def _fifth_bits(blocks: Bytes, start: int) -> Bytes:
    """The bits of the 32-bit word at byte ``start`` of every block, as 16 where set: ``(n, 32)``."""
    return np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") << np.uint8(4)


def _f32(blocks: Bytes) -> Floats:
    return blocks.view("<f4").astype(np.float32)


def _f16(blocks: Bytes) -> Floats:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    """bfloat16 is the upper half of a float32."""
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return (nibbles(blocks[:, 2:]).astype(np.float32) - 8) * half(blocks, 0)


def _q4_1(blocks: Bytes) -> Floats:
    return nibbles(blocks[:, 4:]).astype(np.float32) * half(blocks, 0) + half(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    values = nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return (values.astype(np.float32) - 16) * half(blocks, 0)


def _q5_1(blocks: Bytes) -> Floats:
    values = nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return values.astype(np.float32) * half(blocks, 0) + half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * half(blocks, 0)


_FORMATS: dict[str, Callable[[Bytes], Floats]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": k_quants.q2_k,
    "Q3_K": k_quants.q3_k,
    "Q4_K": k_quants.q4_k,
    "Q5_K": k_quants.q5_k,
    "Q6_K": k_quants.q6_k,
    "Q8_K": k_quants.q8_k,
}
