"""Integer products over many rows in fewer operators: the same numbers, to the bit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.export.passes.many_rows import fuse_many_rows
from edgewise.export.passes.patterns import copy_of, finish
from edgewise.quantize.emit import Emitter
from edgewise.quantize.kernels import KERNELS
from edgewise.quantize.schemes import Kernel

from .conftest import compute

K, N = 96, 40


def _product(kernel: Kernel, dims: tuple[str, ...]) -> ir.Model:
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=kind, shape=ir.Shape((*dims, K)))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 24, "com.microsoft": 1}, name="product")
    emitter = Emitter(graph)
    rng = np.random.default_rng(0)
    for i in range(2):  # two products that share their rounded rows
        y = KERNELS[kernel](emitter, x, f"weight{i}", rng.standard_normal((N, K)).astype(np.float32))
        y.name, y.type, y.shape = f"y{i}", kind, ir.Shape((*dims, N))
        graph.outputs.append(y)
    return finish(ir.Model(graph, ir_version=11), 24)


def _fused(model: ir.Model) -> ir.Model:
    return finish(fuse_many_rows(copy_of(model)), 24)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5), (40,), (2, 3, 4)], ids=str)
def test_same_bits(shape: tuple[int, ...]) -> None:
    model = _product("int8-rows", ("a", "b", "c")[: len(shape)])
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((*shape, K)) * 10.0 ** rng.integers(-3, 3, (*shape, 1))).astype(np.float32)
    x.reshape(-1, K)[0] = 0  # a row without a scale
    expected, actual = compute(model, {"x": x}), compute(_fused(model), {"x": x})
    for name in ("y0", "y1"):
        np.testing.assert_array_equal(actual[name], expected[name])


def test_fewer_operators() -> None:
    count = Counter(node.op_type for node in _fused(_product("int8-rows", ("rows", "tokens"))).graph)
    assert (count["QuantizeLinear"], count["MatMulIntegerToFloat"]) == (1, 2)
    assert not count.keys() & {"Round", "Div", "Cast", "MatMulInteger"}


def test_one_scale_for_a_tensor_stays() -> None:
    """``DynamicQuantizeLinear`` rounds in one operator already; its scale is no constant of the product."""
    model = _product("int8-tensor", ("rows", "tokens"))
    count = Counter(node.op_type for node in _fused(model).graph)
    assert (count["DynamicQuantizeLinear"], count["QuantizeLinear"], count["MatMulIntegerToFloat"]) == (1, 0, 2)
    x = np.random.default_rng(2).standard_normal((2, 3, K)).astype(np.float32)
    for name, value in compute(model, {"x": x}).items():
        np.testing.assert_array_equal(compute(_fused(model), {"x": x})[name], value)
