"""Weights as integers, in numbers to check by hand."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.errors import ExportError
from edgewise.quantize.tensors import BLOCK, SMALLEST_SCALE, blocked, kept_by_blocks, per_channel

Floats = NDArray[np.float32]


def test_a_scale_for_every_row() -> None:
    weight = np.array([[1.27, -0.5, 0.004], [0.0, 254.0, 2.9]], np.float32)
    values, scale = per_channel(weight)
    np.testing.assert_allclose(scale, [[0.01], [2.0]], rtol=1e-6)
    assert values.tolist() == [[127, -50, 0], [0, 127, 1]]
    assert (values.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, (2, 1))


def test_halves_go_to_the_even_neighbour() -> None:
    values, _ = per_channel(np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32))
    assert values.tolist() == [[127, 0, 2, 2, 0, -2]]


def test_both_ends_are_reached_and_not_passed() -> None:
    values, _ = per_channel(np.array([[3.3, -3.3, 0.1], [-7, 1, 2]], np.float32))
    assert values[0].tolist() == [127, -127, 4]
    assert values[1].min() == -127


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-44], ids=str)
def test_a_row_of_zeros_stays_zeros(tiny: float) -> None:
    """Also one so small that its scale would be 0."""
    weight = np.array([[tiny, 0, -tiny], [127, 0, 0]], np.float32)
    values, scale = per_channel(weight)
    assert values.tolist() == [[0, 0, 0], [127, 0, 0]]
    np.testing.assert_allclose(scale, [[SMALLEST_SCALE], [1.0]], rtol=1e-6)


@pytest.mark.parametrize("size", [1e-3, 0.02, 1.0, 300.0])
def test_blocks_of_a_q8_0_file_are_its_own(size: float) -> None:
    """Integers and scales, byte for byte."""
    weight = np.random.default_rng(0).standard_normal((16, 96)).astype(np.float32) * np.float32(size)
    weight[2, 32:64] = 0
    raw = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
    kept = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    stored = raw.reshape(16, 3, 34)
    values, scale = blocked(kept)
    np.testing.assert_array_equal(values, stored[:, :, 2:].view(np.int8).astype(np.int16) + 128)
    file_scale = stored[:, :, :2].copy().view(np.float16)[:, :, 0].astype(np.float32)
    np.testing.assert_array_equal(scale, np.maximum(file_scale, np.float32(SMALLEST_SCALE)))
    assert kept_by_blocks(kept)
    assert not kept_by_blocks(weight)
    assert not kept_by_blocks(kept[:, :48])


def test_a_scale_for_every_block() -> None:
    weight = np.zeros((2, 2 * BLOCK), np.float32)
    weight[0, :3] = [1.27, -0.64, 0.01]
    weight[0, BLOCK + 1] = -254
    weight[1, -1] = 127
    values, scale = blocked(weight)
    np.testing.assert_allclose(scale, [[0.01, 2.0], [SMALLEST_SCALE, 1.0]], rtol=1e-6)
    assert (values.shape, values.dtype, scale.dtype) == ((2, 2, BLOCK), np.uint8, np.float32)
    assert values[0, 0, :4].tolist() == [255, 64, 129, 128]
    assert values[0, 1, :2].tolist() == [128, 1]
    assert values[1].sum() == 2 * BLOCK * 128 + 127


def squares(weight: Floats, levels: Floats, scale: Floats) -> Floats:
    """How far each block of ``weight`` is from its levels."""
    blocks = weight.reshape(*scale.shape, BLOCK)
    return np.square(levels * scale[:, :, None] - blocks, dtype=np.float64).sum(axis=2)


def plain(weight: Floats) -> Floats:
    """As :func:`squares`, the largest weight 127 of its scale."""
    blocks = weight.reshape(len(weight), -1, BLOCK)
    scale = np.abs(blocks).max(axis=2) / np.float32(127)
    return squares(weight, np.rint(blocks / scale[:, :, None]), scale)


def test_no_other_scale_is_nearer_to_a_block() -> None:
    weight = np.random.default_rng(3).standard_normal((24, 2 * BLOCK)).astype(np.float32)
    values, scale = blocked(weight)
    found = squares(weight, values.astype(np.float32) - 128, scale)
    assert found.sum() < 0.85 * plain(weight).sum()
    blocks = weight.reshape(24, 2, BLOCK)
    for levels in range(1, 128):
        tried = np.abs(blocks).max(axis=2) / np.float32(levels)
        assert (found <= 1.0001 * squares(weight, np.rint(blocks / tried[:, :, None]), tried)).all()


def test_weights_of_a_file_in_four_bits_lose_little() -> None:
    weight = np.random.default_rng(4).standard_normal((64, 4 * BLOCK)).astype(np.float32)
    raw = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
    kept = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_1)
    values, scale = blocked(kept)
    assert squares(kept, values.astype(np.float32) - 128, scale).sum() < 0.2 * plain(kept).sum()


@pytest.mark.parametrize("shape", [(3, 64), (1, 32)], ids=str)
def test_no_weight_moves_by_more_than_half_a_step(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    channels, blocks = per_channel(weight), blocked(weight)
    assert (np.abs(channels.values * channels.scale - weight) <= channels.scale * 0.5001).all()
    restored = (blocks.values.astype(np.float32) - 128) * blocks.scale[:, :, None]
    error = np.abs(restored - weight.reshape(restored.shape))
    assert (error <= blocks.scale[:, :, None] * 0.5001).all()


@pytest.mark.parametrize("width", [1, 31, 48])
def test_a_width_that_blocks_do_not_divide(width: int) -> None:
    with pytest.raises(ExportError, match=f"a matrix of {width} inputs does not divide into blocks of 32: carry it by"):
        blocked(np.ones((2, width), np.float32))
