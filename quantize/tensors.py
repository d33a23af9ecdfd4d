"""Weights as integers: symmetric, per output channel or per block of inputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError

BLOCK = 32
"""Inputs that share a scale in a blocked matrix."""
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
    """Round ``weight (N, K)`` to 255 levels a block of 32 inputs.

    Raises:
        ExportError: ``K`` is no multiple of 32.
    """
    if weight.shape[1] % BLOCK:
        raise ExportError(
            f"a matrix of {weight.shape[1]} inputs does not divide into blocks of {BLOCK}: "
            "carry it by another kernel than int8-blocks"
        )
    blocks = weight.reshape(len(weight), -1, BLOCK)
    scale = _scale(np.abs(blocks).max(axis=2, keepdims=True))
    return Blocked((np.rint(blocks / scale) + 128).astype(np.uint8), scale[:, :, 0])


def kept_by_blocks(weight: NDArray[np.float32]) -> bool:
    """Whether :func:`blocked` gives ``weight (N, K)`` back to the bit, as it does the weights of a Q8_0 file."""
    if weight.shape[1] % BLOCK:
        return False
    values, scale = blocked(weight)
    return bool(((values - np.float32(128)) * scale[:, :, None] == weight.reshape(values.shape)).all())


def _scale(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(largest / 127, SMALLEST_SCALE).astype(np.float32)
