"""Repacked blocks: the product that ONNX Runtime computes from them is that of the dequantized matrix."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgewise.errors import CheckpointError
from edgewise.models.gguf.dequantize import dequantize
from edgewise.models.gguf.layout import TENSOR_TYPES, TensorType
from edgewise.models.gguf.repack import BLOCK, REPACKED, BlockedWeight, repack

Floats = NDArray[np.float32]
KINDS = {kind.name: kind for kind in TENSOR_TYPES.values()}
N, K = 24, 96  # three blocks: an odd number, so that half a byte of zero points is unused


def stored(name: str, columns: int = K) -> NDArray[np.uint8]:
    """Rows as the format's own library quantizes them, one of zeros."""
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(N, columns)) * 10.0 ** rng.integers(-2, 2, (N, 1)) + rng.normal(size=(N, 1))
    weight[3] = 0
    rows: NDArray[np.uint8] = gguf.quants.quantize(weight.astype(np.float32), gguf.GGMLQuantizationType[name])
    return rows


def product(x: Floats, weight: BlockedWeight, accuracy_level: int) -> Floats:
    """``x @ weight.T`` by ``MatMulNBits``, the block sums times the offsets added where there are any."""
    constants: dict[str, NDArray[Any]] = {"values": weight.values, "scale": weight.scale.reshape(-1)}
    if weight.zero_point is not None:
        constants["zero_point"] = weight.zero_point.reshape(-1)
    node = helper.make_node(
        "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", K=x.shape[1], N=len(weight.scale),
        bits=weight.bits, block_size=BLOCK, accuracy_level=accuracy_level,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", x.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", len(weight.scale)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    )
    model.ir_version = 10
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    if weight.offset is not None:
        y = y + x.reshape(len(x), -1, BLOCK).sum(axis=2) @ weight.offset.T
    return y  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", REPACKED)
def test_the_product_is_that_of_the_dequantized_matrix(name: str) -> None:
    rows = stored(name)
    x = np.random.default_rng(5).normal(size=(4, K)).astype(np.float32)
    exact = x.astype(np.float64) @ dequantize(rows, KINDS[name]).astype(np.float64).T
    # A bound for sums of K float32 products in any order, not a tolerance that was tried out.
    bound = 2 * K * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(dequantize(rows, KINDS[name])).T)
    assert (np.abs(product(x, repack(rows, KINDS[name]), 0) - exact) <= bound).all()


@pytest.mark.parametrize("name", REPACKED)
def test_every_weight_is_the_very_number(name: str) -> None:
    """Rows of the identity pick single weights, so that no sum can round."""
    rows = stored(name)
    picked = product(np.eye(K, dtype=np.float32), repack(rows, KINDS[name]), 0)
    np.testing.assert_array_equal(picked.T, dequantize(rows, KINDS[name]))


@pytest.mark.parametrize("name", REPACKED)
def test_by_integer_arithmetic_too(name: str) -> None:
    """Activations of whole steps are what the integer kernel reads exactly."""
    rows = stored(name)
    x = np.random.default_rng(6).integers(-127, 128, (4, K)).astype(np.float32)
    x.reshape(4, -1, BLOCK)[:, :, 0] = 127  # the scale of every block of activations is then 1
    exact = x.astype(np.float64) @ dequantize(rows, KINDS[name]).astype(np.float64).T
    bound = 2 * K * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(dequantize(rows, KINDS[name])).T)
    assert (np.abs(product(x, repack(rows, KINDS[name]), 4) - exact) <= bound).all()


def test_shapes() -> None:
    weight = repack(stored("Q4_1"), KINDS["Q4_1"])
    assert weight.values.shape == (N, 3, 16)
    assert weight.scale.shape == (N, 3)
    assert weight.zero_point is not None
    assert weight.zero_point.shape == (N, 2)
    assert weight.offset is not None
    assert weight.offset.shape == (N, 3)
    assert repack(stored("Q8_0"), KINDS["Q8_0"]).values.shape == (N, 3, 32)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(KINDS["Q5_0"], (2, 22)), (KINDS["F32"], (2, 4)), (KINDS["Q8_0"], (34,)), (KINDS["Q8_0"], (1, 33))],
)
def test_other_forms(kind: TensorType, shape: tuple[int, ...]) -> None:
    message = f"a {len(shape)}-dimensional tensor of {kind.name} has no lossless form in blocks of 32, expected"
    with pytest.raises(CheckpointError, match=message):
        repack(np.zeros(shape, np.uint8), kind)


@pytest.mark.parametrize("byte", [1, 3], ids=["scale", "offset"])
def test_scales_that_are_no_numbers(byte: int) -> None:
    rows = stored("Q4_1")
    rows[0, byte] = 0x7C
    rows[0, byte - 1] = 0
    with pytest.raises(CheckpointError, match="a scale of a Q4_1 tensor is NaN or infinity: download the file"):
        repack(rows, KINDS["Q4_1"])
