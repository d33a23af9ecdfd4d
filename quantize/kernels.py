"""How one matrix product ``x @ weight.T`` is carried out in a graph, by kernel name.

================ ==================================================================================================
float32          the weight as it is
int8-weights     int8 weights, times their scales once at load (ONNX Runtime) or inside the kernel (OpenVINO)
int8-rows        activations of each row scaled to uint8, ``MatMulInteger`` with int8 weights, scaled back
int8-scaled-rows as ``int8-rows``, once every input has its factor (:mod:`.scaling`); where inputs have a least value
                 they are counted from it, in 255 levels
int8-blocks      ``MatMulNBits``: 8-bit weights in blocks of 32, activations of each row and block as int8
int4-blocks      ``MatMulNBits``: 4-bit weights in blocks of 32, a zero point each, activations as before
int8-tensor      activations of the whole tensor on one scale: ``DynamicQuantizeLinear`` and ``MatMulInteger``
================ ==================================================================================================

Integers have no NaN. A row that is wholly NaN stays so in ``int8-rows`` and ``int8-blocks``, one NaN among its numbers
may vanish, and in ``int8-tensor`` a whole row among others: so weights are searched for NaN when a bundle is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ExportError
from .emit import Emitter
from .four_bits import four_bits
from .schemes import Kernel
from .tensors import BLOCK, blocked, per_channel

Weight = NDArray[np.float32]


def _float32(e: Emitter, x: ir.Value, name: str, weight: Weight) -> ir.Value:
    matrix = e.constant(name, weight)
    return e.node("MatMul", [x, e.node("Transpose", [matrix], perm=[1, 0])])


def _int8_weights(e: Emitter, x: ir.Value, name: str, weight: Weight) -> ir.Value:
    quantized = per_channel(weight)
    values = e.node("Cast", [e.constant(f"{name}.int8", quantized.values)], to=ir.DataType.FLOAT)
    matrix = e.node("Mul", [values, e.constant(f"{name}.scale", quantized.scale)])
    return e.node("MatMul", [x, e.node("Transpose", [matrix], perm=[1, 0])])


def _int8_rows(e: Emitter, x: ir.Value, name: str, weight: Weight) -> ir.Value:
    """``q = round(x / scale) + 128``, ``scale = max|row| / 127``, against weights without offset; then both scales."""
    largest = e.node("ReduceMax", [e.node("Abs", [x]), e.ints("last_axis", [-1])], keepdims=1)
    levels = e.node("Mul", [largest, e.floats("inverse_levels", [1 / 127])])
    scale = e.node("Max", [levels, e.floats("tiny", [1e-20])])  # a row of zeros has no scale
    shifted = e.node("Add", [e.node("Round", [e.node("Div", [x, scale])]), e.floats("offset", [128.0])])
    rows = e.node("Cast", [shifted], to=ir.DataType.UINT8)
    offset = e.constant("offset_uint8", np.array(128, np.uint8))
    return e.node("Mul", [_integer_product(e, [rows, offset], name, weight), scale])


class Scaling(NamedTuple):
    """What stands before a row's own scale: ``factor (K,)`` for each input, and a number below all inputs, if any.

    Matrices of one ``reader`` read the same value, and share what is made of it.
    """

    reader: str
    factor: Weight
    least: float | None


def _int8_scaled_rows(e: Emitter, x: ir.Value, name: str, weight: Weight, scaling: Scaling | None = None) -> ir.Value:
    """``(x - least) * factor`` as :func:`_int8_rows`, against ``weight / factor``; without a scaling factors are 1."""
    reader, factor, least = scaling or Scaling(name, np.ones(weight.shape[1], np.float32), None)
    factors, inner = e.constant(f"{reader}.factor", factor), weight / factor
    if least is None:
        return _int8_rows(e, e.node("Mul", [x, factors]), name, inner)
    above = e.node("Sub", [x, e.floats(f"least_{least}", [least])]) if least else x
    y = _int8_rows_above_zero(e, e.node("Mul", [above, factors]), name, inner)
    if not least:
        return y
    values, scale = per_channel(inner)
    carried = (values * scale * factor.astype(np.float64)).sum(axis=1) * least
    return e.node("Add", [y, e.constant(f"{name}.least", carried.astype(np.float32))])


def _int8_rows_above_zero(e: Emitter, x: ir.Value, name: str, weight: Weight) -> ir.Value:
    """``q = round(x / scale)``, ``scale = max(row) / 255``, of rows without negative numbers."""
    largest = e.node("ReduceMax", [x, e.ints("last_axis", [-1])], keepdims=1)
    levels = e.node("Mul", [largest, e.floats("inverse_255", [1 / 255])])
    scale = e.node("Max", [levels, e.floats("tiny", [1e-20])])
    rows = e.node("Cast", [e.node("Round", [e.node("Div", [x, scale])])], to=ir.DataType.UINT8)
    offset = e.constant("no_offset_uint8", np.array(0, np.uint8))
    return e.node("Mul", [_integer_product(e, [rows, offset], name, weight), scale])


def _int8_tensor(e: Emitter, x: ir.Value, name: str, weight: Weight) -> ir.Value:
    quantized = e.nodes("DynamicQuantizeLinear", [x], 3)
    rows, scale, offset = quantized
    return e.node("Mul", [_integer_product(e, [rows, offset], name, weight), scale])


def _integer_product(e: Emitter, activations: list[ir.Value], name: str, weight: Weight) -> ir.Value:
    """uint8 activations and their zero point against int8 weights, times the weights' scales ``(N,)``."""
    quantized = per_channel(weight)
    matrix = e.node("Transpose", [e.constant(f"{name}.int8", quantized.values)], perm=[1, 0])
    rows, offset = activations
    product = e.node("MatMulInteger", [rows, matrix, offset])
    scale = e.node("Squeeze", [e.constant(f"{name}.scale", quantized.scale), e.ints("axis_one", [1])])
    return e.node("Mul", [e.node("Cast", [product], to=ir.DataType.FLOAT), scale])


def _int8_blocks(e: Emitter, x: ir.Value, name: str, weight: Weight) -> ir.Value:
    quantized = blocked(weight)
    n, k = weight.shape
    return e.node(
        "MatMulNBits",
        [x, e.constant(f"{name}.blocks", quantized.values), e.constant(f"{name}.block_scale", quantized.scale)],
        domain="com.microsoft",
        K=k,
        N=n,
        bits=8,
        block_size=BLOCK,
        accuracy_level=4,
    )


def _int4_blocks(e: Emitter, x: ir.Value, name: str, weight: Weight) -> ir.Value:
    quantized = four_bits(weight)
    n, k = weight.shape
    values = e.constant(f"{name}.int4_blocks", quantized.values)
    scale = e.constant(f"{name}.int4_scale", quantized.scale)
    zero_point = e.constant(f"{name}.int4_zero_point", quantized.zero_point)
    attributes = {"K": k, "N": n, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    product = e.node("MatMulNBits", [x, values, scale, zero_point], domain="com.microsoft", **attributes)
    if quantized.offset is None:
        return product
    # Sums of each block of inputs, by a matrix of ones: one operator, whatever the dimensions of x.
    ones = np.repeat(np.eye(k // BLOCK, dtype=np.float32), BLOCK, axis=0)
    sums = e.node("MatMul", [x, e.constant(f"ones_of_blocks_{k}", ones)])
    offset = e.node("Transpose", [e.constant(f"{name}.int4_offset", quantized.offset)], perm=[1, 0])
    return e.node("Add", [product, e.node("MatMul", [sums, offset])])


KERNELS: dict[Kernel, Callable[..., ir.Value]] = {
    "float32": _float32,
    "int8-weights": _int8_weights,
    "int8-rows": _int8_rows,
    "int8-scaled-rows": _int8_scaled_rows,
    "int8-blocks": _int8_blocks,
    "int8-tensor": _int8_tensor,
    "int4-blocks": _int4_blocks,
}
"""Each takes an emitter, ``x (..., K)``, the name of the matrix, its weight ``(N, K)``; the scaled one a scaling."""


def embedding(e: Emitter, ids: ir.Value, name: str, weight: Weight, kernel: Kernel) -> ir.Value:
    """Rows ``ids`` of an embedding, from the same integers that ``kernel`` multiplies with: one store for both.

    Raises:
        ExportError: a kernel of four bits, whose rows no operator looks up.
    """
    if kernel == "int8-blocks":
        quantized = blocked(weight)
        flat = e.constant(f"{name}.rows", quantized.values.reshape(weight.shape))
        scale = e.constant(f"{name}.block_scale", quantized.scale)
        attributes = {"bits": 8, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        return e.node("GatherBlockQuantized", [flat, ids, scale], domain="com.microsoft", **attributes)
    if kernel == "int4-blocks":
        raise ExportError(f"{name}: rows of int4-blocks cannot be looked up: carry the vocabulary by another kernel")
    channels = per_channel(weight)
    values = e.node("Gather", [e.constant(f"{name}.int8", channels.values), ids], axis=0)
    scales = e.node("Gather", [e.constant(f"{name}.scale", channels.scale), ids], axis=0)
    return e.node("Mul", [e.node("Cast", [values], to=ir.DataType.FLOAT), scales])
