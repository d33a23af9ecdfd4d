"""Weights of four bits: by hand, by what every rounding must hold to, and beside plain rounding."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.errors import ExportError
from edgewise.quantize.four_bits import FourBits, four_bits

Floats = NDArray[np.float32]


def restored(packed: FourBits) -> Floats:
    """Unpacked by the definition in ONNX Runtime's ``ContribOperators.md``: of two in a byte the first is low."""
    n, blocks, _ = packed.values.shape
    weight = np.empty((n, blocks, 32), np.float32)
    for row, block, i in np.ndindex(weight.shape):
        byte = int(packed.values[row, block, i // 2])
        zeros = int(packed.zero_point[row, block // 2])
        value, zero = (byte >> 4 if i % 2 else byte & 15), (zeros >> 4 if block % 2 else zeros & 15)
        weight[row, block, i] = np.float32(value - zero) * packed.scale[row, block]
        if packed.offset is not None:
            weight[row, block, i] += packed.offset[row, block]
    return weight.reshape(n, -1)


def normal(n: int, k: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


def test_by_hand() -> None:
    weight = np.zeros((1, 32), np.float32)
    weight[0, :4] = [-1.0, 0.6, 2.0, 0.2]  # 15 steps of 0.2 from -1 to 2: zero is at 5
    packed = four_bits(weight)
    assert packed.zero_point.tolist() == [[5]]
    assert packed.scale.tolist() == [[pytest.approx(0.2)]]
    assert packed.values[0, 0].tolist() == [0 | 8 << 4, 15 | 6 << 4, *[5 | 5 << 4] * 14]
    np.testing.assert_allclose(restored(packed), weight, atol=1e-6)


@pytest.mark.parametrize("k", [32, 64, 96])
def test_shapes(k: int) -> None:
    packed = four_bits(normal(5, k))
    assert (packed.values.shape, packed.values.dtype) == ((5, k // 32, 16), np.uint8)
    assert (packed.scale.shape, packed.scale.dtype) == ((5, k // 32), np.float32)
    assert (packed.zero_point.shape, packed.zero_point.dtype) == ((5, (k + 32) // 64), np.uint8)


@pytest.mark.parametrize("levels", [np.arange(-8, 8), np.arange(0, 16), np.arange(-15, 1), np.arange(-3, 13)], ids=str)
def test_what_16_levels_can_hold_is_kept(levels: NDArray[np.int_]) -> None:
    """Such are the weights of a Q4_0 file, when both ends occur."""
    rng = np.random.default_rng(1)
    steps = np.concatenate([rng.choice(levels, (4, 3, 30)), np.tile(levels[[0, -1]], (4, 3, 1))], axis=2)
    weight = (steps * rng.uniform(0.01, 3, (4, 3, 1))).reshape(4, 96).astype(np.float32)
    packed = four_bits(weight)
    np.testing.assert_allclose(restored(packed), weight, rtol=2e-5, atol=1e-6)
    assert packed.offset is None


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 0.02, 1.0, 300.0])
def test_the_weights_of_a_q4_0_file_are_kept_to_the_bit(scale: float) -> None:
    """Most of its blocks do not use all levels."""
    raw = gguf.quants.quantize(normal(16, 96) * np.float32(scale), gguf.GGMLQuantizationType.Q4_0)
    weight = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_0)
    packed = four_bits(weight)
    assert packed.offset is None
    np.testing.assert_array_equal(restored(packed), weight)


def test_the_weights_of_a_q4_1_file_are_kept() -> None:
    raw = gguf.quants.quantize(normal(8, 96), gguf.GGMLQuantizationType.Q4_1)
    weight = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_1)
    packed = four_bits(weight)
    assert packed.offset is not None
    assert (np.abs(packed.offset) <= 0.501 * packed.scale).all()
    np.testing.assert_allclose(restored(packed), weight, rtol=0, atol=2e-6)


def test_nearer_than_the_librarys_own_rounding() -> None:
    weight = normal(64, 256)
    raw = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
    library = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_1)
    ours, theirs = (np.square(w - weight).reshape(-1, 32).sum(axis=1) for w in (restored(four_bits(weight)), library))
    assert (ours <= theirs * 1.001).all(), "the range that the library takes is among those that are tried"
    assert ours.mean() < 0.9 * theirs.mean()


def test_zeros_and_the_tiniest() -> None:
    weight = np.zeros((2, 64), np.float32)
    weight[1, 3] = 1e-44
    packed = four_bits(weight)
    assert np.isfinite(packed.scale).all()
    np.testing.assert_allclose(restored(packed), weight, atol=1e-19)


def test_equal_weights_are_kept() -> None:
    weight = np.repeat(np.array([[-3.5, 2.25]], np.float32), 32, axis=1)
    np.testing.assert_allclose(restored(four_bits(weight)), weight, rtol=1e-6)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(10, 96)
    whole = four_bits(weight)
    monkeypatch.setattr("edgewise.quantize.four_bits._CHUNK", 7)
    for one, other in zip(four_bits(weight), whole, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("width", [1, 31, 48])
def test_a_width_that_blocks_do_not_divide(width: int) -> None:
    with pytest.raises(ExportError, match=f"a matrix of {width} inputs does not divide into blocks of 32: carry it by"):
        four_bits(np.ones((2, width), np.float32))
