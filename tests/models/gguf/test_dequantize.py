"""Dequantizing: to the bit what the format's own library says, and what a loop over single values says."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.errors import CheckpointError
from edgewise.models.gguf import dequantize as module
from edgewise.models.gguf.dequantize import dequantize
from edgewise.models.gguf.layout import TENSOR_TYPES

NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}
# The library does not read Q8_K, which llama.cpp keeps for intermediate results.
IN_THE_LIBRARY = [name for name in NUMBERS if name != "Q8_K"]
# Where the float16 (float32 for Q8_K) scales of a block lie.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def random_blocks(name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Random bits everywhere, but finite scales."""
    generator = np.random.default_rng(NUMBERS[name])
    kind = TENSOR_TYPES[NUMBERS[name]]
    blocks = generator.integers(0, 256, (*shape, kind.block_bytes), dtype=np.uint8)
    if name in ("F32", "F16", "BF16"):
        values = generator.normal(size=shape).astype(np.float32)
        upper = (values.view(np.uint32) >> 16).astype("<u2")
        return {"F32": values, "F16": values.astype("<f2"), "BF16": upper}[name].view(np.uint8).reshape(*shape, -1)
    if name == "Q8_K":
        blocks[..., :4] = generator.normal(size=(*shape, 1)).astype("<f4").view(np.uint8)
        return blocks
    for start in SCALES.get(name, (0, 2) if name in ("Q4_1", "Q5_1") else (0,)):
        blocks[..., start : start + 2] = generator.normal(size=(*shape, 1)).astype("<f2").view(np.uint8)
    return blocks


@pytest.mark.parametrize("name", IN_THE_LIBRARY)
def test_bit_equal_to_the_library(name: str) -> None:
    rows = random_blocks(name, (3, 5, 7)).reshape(3, 5, -1)
    expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(NUMBERS[name])).astype(np.float32)
    found = dequantize(rows, TENSOR_TYPES[NUMBERS[name]])
    assert found.shape == expected.shape == (3, 5, 7 * TENSOR_TYPES[NUMBERS[name]].block_size)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", NUMBERS)
def test_block_sizes_are_the_library_s(name: str) -> None:
    assert TENSOR_TYPES[NUMBERS[name]][1:] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(NUMBERS[name])]
    assert gguf.GGMLQuantizationType(NUMBERS[name]).name == name


def test_q8_k_value_by_value() -> None:
    rows = random_blocks("Q8_K", (2, 3)).reshape(2, -1)
    found = dequantize(rows, TENSOR_TYPES[NUMBERS["Q8_K"]])
    for row, values in zip(rows, found, strict=True):
        for index, value in enumerate(values):
            block = bytes(row[index // 256 * 292 :][:292])
            scale = np.frombuffer(block[:4], "<f4")[0]
            assert value == scale * np.float32(int.from_bytes(block[4 + index % 256 :][:1], signed=True))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_the_library_quantizes(name: str) -> None:
    """Weights of a usual size come back within half a step of the widest block."""
    weights = np.random.default_rng(1).normal(scale=0.05, size=(4, 128)).astype(np.float32)
    rows = gguf.quants.quantize(weights, gguf.GGMLQuantizationType(NUMBERS[name]))
    steps = {"Q4_0": 16, "Q4_1": 15, "Q5_0": 32, "Q5_1": 31, "Q8_0": 254}[name]
    span = 2 * np.abs(weights).reshape(4, -1, 32).max(axis=2, keepdims=True)
    error = np.abs(dequantize(rows, TENSOR_TYPES[NUMBERS[name]]) - weights).reshape(4, -1, 32)
    # A symmetric code has one level more on one side: the far end of the other may be a whole step off.
    assert (error <= span / steps * 1.01).all()


def test_large_matrices_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_blocks("Q6_K", (5, 3)).reshape(5, -1)
    whole = dequantize(rows, TENSOR_TYPES[NUMBERS["Q6_K"]])
    monkeypatch.setattr(module, "_CHUNK_BYTES", 500)
    np.testing.assert_array_equal(dequantize(rows, TENSOR_TYPES[NUMBERS["Q6_K"]]), whole)


def test_rows_that_are_no_blocks() -> None:
    with pytest.raises(CheckpointError, match="rows of 35 bytes are no whole blocks of Q8_0, of 34 bytes each"):
        dequantize(np.zeros((2, 35), np.uint8), TENSOR_TYPES[NUMBERS["Q8_0"]])
