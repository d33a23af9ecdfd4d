"""Every kernel's product: the integer arithmetic that its name says, and near the float product as its scales allow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgewise.errors import ExportError
from edgewise.quantize.emit import Emitter
from edgewise.quantize.four_bits import four_bits
from edgewise.quantize.kernels import KERNELS, embedding
from edgewise.quantize.products import open_products
from edgewise.quantize.schemes import Kernel
from edgewise.quantize.tensors import BLOCK, blocked, per_channel

Floats = NDArray[np.float32]
QUANTIZED: tuple[Kernel, ...] = ("int8-weights", "int8-rows", "int8-blocks", "int8-tensor", "int4-blocks")
N, K = 24, 64


def _weight(seed: int = 0) -> Floats:
    """Rows of very different sizes, one of zeros."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((N, K)) * 10.0 ** rng.integers(-3, 3, (N, 1))
    weight[3] = 0
    return weight.astype(np.float32)


def _rows(count: int, seed: int = 1) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, K)) * 10.0 ** rng.integers(-2, 2, (count, 1))).astype(np.float32)


def _product(kernel: Kernel, x: Floats, weight: Floats) -> Floats:
    (y,) = open_products(kernel, [weight]).run(None, {"x": x})
    return y  # type: ignore[no-any-return]


# --- what each kernel computes, in NumPy ------------------------------------------------------------------------------


def _dequantized(weight: Floats) -> Floats:
    values, scale = per_channel(weight)
    return values * scale


def _by_weights(x: Floats, weight: Floats) -> Floats:
    return x @ _dequantized(weight).T


def _by_rows(x: Floats, weight: Floats) -> Floats:
    values, scale = per_channel(weight)
    step = np.abs(x).max(axis=1, keepdims=True) * np.float32(1 / 127)
    levels = np.rint(x / step).astype(np.int64)
    sums = levels @ values.T.astype(np.int64)
    return sums * scale.T.astype(np.float64) * step  # type: ignore[no-any-return]


def _by_blocks(x: Floats, weight: Floats) -> Floats:
    values, scale = blocked(weight)
    cut = x.reshape(len(x), -1, BLOCK)
    step = np.abs(cut).max(axis=2, keepdims=True) / np.float32(127)
    levels = np.rint(cut / step).astype(np.int64)
    sums = np.einsum("mbk,nbk->mnb", levels, values.astype(np.int64) - 128)
    return (sums * step[:, None, :, 0].astype(np.float64) * scale[None]).sum(axis=2)  # type: ignore[no-any-return]


def _four_bits(weight: Floats) -> Floats:
    """What the integers of four bits stand for, unpacked here by the definition of ``MatMulNBits``."""
    packed = four_bits(weight)
    values = np.stack([packed.values & 15, packed.values >> 4], axis=-1).reshape(len(weight), -1, BLOCK)
    zeros = np.stack([packed.zero_point & 15, packed.zero_point >> 4], axis=-1).reshape(len(weight), -1)
    steps = values.astype(np.float32) - zeros[:, : values.shape[1], None]
    offset = 0 if packed.offset is None else packed.offset[:, :, None]
    return (steps * packed.scale[:, :, None] + offset).reshape(weight.shape)  # type: ignore[no-any-return]


def _by_four_bits(x: Floats, weight: Floats) -> Floats:
    cut = x.reshape(len(x), -1, BLOCK)
    step = np.abs(cut).max(axis=2, keepdims=True) / np.float32(127)
    levels = (np.rint(cut / step) * step).reshape(x.shape)
    offset = four_bits(weight).offset
    offsets = np.zeros_like(weight) if offset is None else offset.repeat(BLOCK, axis=1)  # they meet x as it is
    steps = _four_bits(weight).astype(np.float64) - offsets
    return levels.astype(np.float64) @ steps.T + x.astype(np.float64) @ offsets.T  # type: ignore[no-any-return]


def _by_tensor(x: Floats, weight: Floats) -> Floats:
    """ONNX, DynamicQuantizeLinear: 0 to 255 over the range of ``x`` and 0."""
    values, scale = per_channel(weight)
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    step = (high - low) / np.float32(255)
    offset = np.rint(-low / step)
    levels = np.clip(np.rint(x / step) + offset, 0, 255) - offset
    return (levels.astype(np.int64) @ values.T.astype(np.int64)) * scale.T.astype(np.float64) * step  # type: ignore[no-any-return]


BY_HAND = {
    "int8-weights": _by_weights,
    "int8-rows": _by_rows,
    "int8-blocks": _by_blocks,
    "int8-tensor": _by_tensor,
    "int4-blocks": _by_four_bits,
}


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("kernel", QUANTIZED)
def test_the_arithmetic_of_its_name(kernel: Kernel, rows: int) -> None:
    x, weight = _rows(rows), _weight()
    expected = BY_HAND[kernel](x, weight)
    size = np.abs(x).max(axis=1, keepdims=True) * np.abs(weight).max(axis=1)
    assert (np.abs(_product(kernel, x, weight) - expected) <= 2e-5 * size + 1e-12).all()


# Half a step of the activations, by kernel. Two ways to divide by a step can round a half differently: 1 % more.
def _half_steps(kernel: Kernel, x: Floats) -> Floats:
    if kernel == "int8-weights":
        return np.zeros_like(x)
    if kernel == "int8-rows":
        return np.broadcast_to(np.abs(x).max(axis=1, keepdims=True) / 254, x.shape)
    if kernel in ("int8-blocks", "int4-blocks"):
        blocks = np.abs(x.reshape(len(x), -1, BLOCK)).max(axis=2)
        return blocks.repeat(BLOCK, axis=1) / 254
    return np.full_like(x, (max(x.max(), 0) - min(x.min(), 0)) / 255)  # its offset is rounded as well


@pytest.mark.parametrize("kernel", QUANTIZED)
def test_near_the_float_product(kernel: Kernel) -> None:
    """``|x w - x' w'| <= |x| dw + dx |w| + dx dw`` with half a step each for ``dx``, ``dw``."""
    x, weight = _rows(9), _weight()
    if kernel == "int8-blocks":
        dw = blocked(weight).scale.repeat(BLOCK, axis=1) / 2
    elif kernel == "int4-blocks":
        dw = np.abs(_four_bits(weight) - weight)
    else:
        dw = np.broadcast_to(per_channel(weight).scale / 2, weight.shape)
    dx = _half_steps(kernel, x)
    bound = np.abs(x) @ dw.T + dx @ np.abs(weight).T + dx @ dw.T
    error = np.abs(_product(kernel, x, weight) - x.astype(np.float64) @ weight.T)
    assert (error <= 1.01 * bound).all()
    assert error.max() > 0


def test_float32_is_the_product() -> None:
    x, weight = _rows(5), _weight()
    size = np.abs(x).max(axis=1, keepdims=True) * np.abs(weight).max(axis=1)
    assert (np.abs(_product("float32", x, weight) - x @ weight.T) <= 1e-5 * size).all()


@pytest.mark.parametrize("kernel", QUANTIZED)
def test_extremes(kernel: Kernel) -> None:
    """All activations and weights at the ends of their range, where sums are largest; and rows of zeros."""
    x = np.array([[1.0] * K, [-1.0] * K, [0.0] * K, [1.0, -1.0] * (K // 2)], np.float32)
    weight = np.array([[1.0] * K, [-1.0] * K, [0.0] * K], np.float32)
    expected = np.array([[K, -K, 0], [-K, K, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    # one scale for -1 to 1 has no level at 1 itself, but one within half a step of 2/255
    np.testing.assert_allclose(_product(kernel, x, weight), expected, atol=K / 255 if kernel == "int8-tensor" else 1e-4)


@pytest.mark.parametrize("kernel", QUANTIZED)
def test_three_dimensions(kernel: Kernel) -> None:
    x, weight = _rows(6), _weight()
    (y,) = _graph_3d(kernel, weight).run(None, {"x": x.reshape(2, 3, K)})
    np.testing.assert_array_equal(y.reshape(6, N), _product(kernel, x, weight))


def _graph_3d(kernel: Kernel, weight: Floats) -> onnxruntime.InferenceSession:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("batch", "tokens", K)))
    return _opened(x, lambda e: KERNELS[kernel](e, x, "weight", weight))


def _opened(given: ir.Value, emit: Callable[[Emitter], ir.Value]) -> onnxruntime.InferenceSession:
    graph = ir.Graph([given], [], nodes=[], opset_imports={"": 21, "com.microsoft": 1}, name="part")
    y = emit(Emitter(graph))
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(y)
    data = ir.serde.serialize_model(ir.Model(graph, ir_version=10)).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


# --- a row and its batch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["int8-rows", "int8-blocks", "int4-blocks"])
def test_a_row_of_integers_does_not_depend_on_its_batch(kernel: Kernel) -> None:
    x, session = _rows(9), open_products(kernel, [_weight()])
    (together,) = session.run(None, {"x": x})
    for i in range(len(x)):
        np.testing.assert_array_equal(session.run(None, {"x": x[i : i + 1]})[0][0], together[i])


def test_on_one_scale_it_does() -> None:
    x, session = _rows(2), open_products("int8-tensor", [_weight()])
    x[1] *= 50
    alone, together = (session.run(None, {"x": rows})[0][0] for rows in (x[:1], x))
    assert np.abs(alone - together).max() > 1e-3 * np.abs(alone).max()


@pytest.mark.parametrize("kernel", ["int8-weights", "int8-rows", "int8-blocks", "int4-blocks"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_no_number_stays_so(kernel: Kernel, value: float) -> None:
    x = _rows(3)
    whole = _product(kernel, x, _weight())
    x[1] = value
    damaged = _product(kernel, x, _weight())
    assert not np.isfinite(damaged[1, 0])
    np.testing.assert_array_equal(damaged[[0, 2]], whole[[0, 2]])


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", QUANTIZED[:-1])
def test_an_embedding_reads_the_integers_of_the_projection(kernel: Kernel) -> None:
    weight = _weight()
    ids = ir.Value(name="x", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(("batch", "tokens")))
    session = _opened(ids, lambda e: embedding(e, ids, "embedding", weight, kernel))
    (rows,) = session.run(None, {"x": np.array([[3, 0], [N - 1, 7]])})
    if kernel == "int8-blocks":
        values, scale = blocked(weight)
        table = ((values.astype(np.float32) - 128) * scale[:, :, None]).reshape(N, K)
    else:
        table = _dequantized(weight)
    np.testing.assert_array_equal(rows, table[[[3, 0], [N - 1, 7]]])


def test_rows_of_four_bits_cannot_be_looked_up() -> None:
    ids = ir.Value(name="x", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(("tokens",)))
    with pytest.raises(ExportError, match="table: rows of int4-blocks cannot be looked up: carry the vocabulary by"):
        _opened(ids, lambda e: embedding(e, ids, "table", _weight(), "int4-blocks"))
