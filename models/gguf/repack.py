"""Quantized rows of a GGUF file in the block layout of ONNX Runtime's ``MatMulNBits``: the same integers, reordered.

Nothing is quantized again: ``weight = (value - zero_point) * scale + offset`` gives, in float32, the very number that
dequantizing gives.

====  ====  ==========  ===============================================================================================
type  bits  zero point  remark
====  ====  ==========  ===============================================================================================
Q8_0  8     128         the default of the operator; stored as value + 128
Q4_0  4     8           the default of the operator
Q4_1  4     0, stored   a block's minimum is its ``offset``: a second, 32 times smaller product, of the sums of each
                        block of inputs, ``block_sums @ offset.T``, added to the first
====  ====  ==========  ===============================================================================================

Q4_1 has no exact zero point: ``-minimum / scale`` is no integer (in a real file for 3 blocks of 1000), and as a
floating-point zero point it rounds.

Source: ``MatMulNBits`` in ``docs/ContribOperators.md`` of ONNX Runtime.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError
from .k_quants import half
from .layout import TensorType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCK = 32
REPACKED = ("Q8_0", "Q4_0", "Q4_1")
"""The tensor types that :func:`repack` takes."""


class BlockedWeight(NamedTuple):
    """A matrix of ``N`` rows and ``K`` columns, in ``K / 32`` blocks a row.

    ``values (N, K/32, 4 * bits)`` uint8 is ``B`` of the operator; ``scale (N, K/32)`` its ``scales``; ``zero_point
    (N, bytes)`` its ``zero_points``, two to a byte, or ``None`` for the default; ``offset (N, K/32)``, where there is
    one, is added to every weight of a block.
    """

    bits: Literal[4, 8]
    values: Bytes
    scale: Floats
    zero_point: Bytes | None
    offset: Floats | None


def repack(raw: Bytes, kind: TensorType) -> BlockedWeight:
    """Reorder ``raw (N, bytes a row)``, as :meth:`GgufFile.raw` gives it.

    Raises:
        CheckpointError: a type of another block form, or a scale that is not finite.
    """
    if kind.name not in REPACKED or raw.ndim != 2 or raw.shape[1] % kind.block_bytes:
        raise CheckpointError(
            f"a {raw.ndim}-dimensional tensor of {kind.name} has no lossless form in blocks of {BLOCK}, "
            f"expected a matrix of {', '.join(REPACKED)}: dequantize it"
        )
    n_rows, blocks = len(raw), raw.reshape(-1, kind.block_bytes)
    scale = half(blocks, 0).reshape(n_rows, -1)
    zero_point: Bytes | None = None
    offset: Floats | None = None
    # For Q8_0 flipping the upper bit adds 128 to a two's complement.
    values: Bytes = blocks[:, 2:] ^ np.uint8(128) if kind.name == "Q8_0" else _pairs(blocks[:, -16:])
    if kind.name == "Q4_1":
        offset = half(blocks, 2).reshape(n_rows, -1)
        zero_point = np.zeros((n_rows, (scale.shape[1] + 1) // 2), np.uint8)
    if not (np.isfinite(scale).all() and (offset is None or np.isfinite(offset).all())):
        raise CheckpointError(f"a scale of a {kind.name} tensor is NaN or infinity: download the file again")
    bits: Literal[4, 8] = 8 if kind.name == "Q8_0" else 4
    return BlockedWeight(bits, values.reshape(n_rows, -1, 4 * bits), scale, zero_point, offset)


def _pairs(packed: Bytes) -> Bytes:
    """Low halves first and high halves second, to neighbours in a byte, the earlier in the low half: ``(n, 16)``."""
    in_order: Bytes = np.concatenate([packed & 0x0F, packed >> 4], axis=1)
    pairs: Bytes = in_order[:, ::2] | in_order[:, 1::2] << np.uint8(4)
    return pairs
