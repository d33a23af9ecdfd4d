"""Products of one input joined, and biases drawn into blocked products: the same numbers in fewer kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgewise.export.passes import joined_products
from edgewise.export.passes.blocked_bias import fuse_blocked_bias
from edgewise.export.passes.joined_products import join_products
from edgewise.export.passes.patterns import copy_of, finish
from edgewise.quantize.emit import Emitter
from edgewise.quantize.kernels import KERNELS
from edgewise.quantize.schemes import Kernel

from .conftest import compute

Compare = Callable[..., None]
K, WIDTHS = 64, (8, 24, 16)
X: NDArray[np.float32] = np.random.default_rng(1).standard_normal((5, K)).astype(np.float32)


def _products(kernel: Kernel, *, biases: int = 0, relu: bool = True) -> ir.Model:
    """``x`` times matrices of three widths; after so many of them a bias, and after all a Relu."""
    rng = np.random.default_rng(0)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("rows", K)))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23, "com.microsoft": 1}, name="products")
    emitter = Emitter(graph)
    for i, width in enumerate(WIDTHS):
        y = KERNELS[kernel](emitter, x, f"weight{i}", rng.standard_normal((width, K)).astype(np.float32))
        if i < biases:
            y = emitter.node("Add", [y, emitter.constant(f"bias{i}", rng.standard_normal(width).astype(np.float32))])
        if relu:
            y = emitter.node("Relu", [y])
        y.name, y.type, y.shape = f"y{i}", x.type, ir.Shape(("rows", width))
        graph.outputs.append(y)
    return ir.Model(graph, ir_version=10)


def _assert_same(changed: ir.Model, original: ir.Model, assert_close: Compare) -> None:
    actual, expected = compute(changed, {"x": X}), compute(original, {"x": X})
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_close(actual[name], value)


# --- joined products --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "op_type"), [("float32", "MatMul"), ("int8-weights", "MatMul"), ("int8-blocks", "MatMulNBits")]
)
def test_products_of_one_input_are_one(kernel: Kernel, op_type: str, assert_close: Compare) -> None:
    model = _products(kernel)
    joined = finish(join_products(copy_of(model)), 23)
    _assert_same(joined, model, assert_close)
    count = Counter(node.op_type for node in joined.graph)
    assert (count[op_type], count["Split"]) == (1, 1)


@pytest.mark.parametrize("kernel", ["int8-rows", "int8-tensor"])
def test_integer_products_are_joined_to_the_bit(kernel: Kernel) -> None:
    model = finish(_products(kernel), 23)  # what rounds the rows is there once
    joined = finish(join_products(copy_of(model)), 23)
    expected, actual = compute(model, {"x": X}), compute(joined, {"x": X})
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)
    count = Counter(node.op_type for node in joined.graph)
    assert (count["MatMulInteger"], count["Split"]) == (1, 1)


def test_integer_products_of_different_rows_stay() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("rows", K)))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23, "com.microsoft": 1}, name="products")
    emitter = Emitter(graph)
    for i in range(2):
        own = emitter.node("Mul", [x, emitter.floats(f"factor{i}", [1.0 + i])])
        y = KERNELS["int8-rows"](emitter, own, f"weight{i}", np.ones((8, K), np.float32))
        y.name, y.type, y.shape = f"y{i}", x.type, ir.Shape(("rows", 8))
        graph.outputs.append(y)
    joined = finish(join_products(ir.Model(graph, ir_version=10)), 23)
    assert Counter(node.op_type for node in joined.graph)["MatMulInteger"] == 2


def test_wide_products_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_products, "MOST_COLUMNS", sum(WIDTHS) - 1)
    model = join_products(_products("int8-blocks"))
    assert "Split" not in {node.op_type for node in model.graph}


def test_products_of_two_inputs_are_not_joined() -> None:
    """Attention weights times values are products of what the inputs say, not of matrices."""
    a, b, c = (ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((K, K))) for n in ("x", "b", "c"))
    nodes = [ir.node("MatMul", [a, other]) for other in (b, c)]
    graph = ir.Graph([a, b, c], [n.outputs[0] for n in nodes], nodes=nodes, opset_imports={"": 23}, name="two")
    join_products(ir.Model(graph, ir_version=10))
    assert [node.op_type for node in graph] == ["MatMul", "MatMul"]


# --- blocked bias -----------------------------------------------------------------------------------------------------


def test_biases_move_into_blocked_products(assert_close: Compare) -> None:
    """Where the sum is an output of the graph, it keeps its name."""
    model = _products("int8-blocks", biases=3, relu=False)
    fused = finish(fuse_blocked_bias(copy_of(model)), 23)
    _assert_same(fused, model, assert_close)
    assert [node.op_type for node in fused.graph] == ["MatMulNBits"] * len(WIDTHS)


def test_other_products_keep_their_bias() -> None:
    model = fuse_blocked_bias(_products("int8-rows", biases=3))
    assert Counter(node.op_type for node in model.graph)["Add"] >= len(WIDTHS)


@pytest.mark.parametrize("case", ["another reader", "a residual", "a bias of another width"])
def test_sums_that_are_no_bias_stay(case: str) -> None:
    model = _products("int8-blocks", biases=3, relu=False)
    for i, node in enumerate([node for node in model.graph if node.op_type == "Add"]):
        product = node.inputs[0]
        assert product is not None
        if case == "another reader":
            model.graph.append(ir.node("Relu", [product]))
        elif case == "a residual":
            node.replace_input_with(1, product)
        else:
            one = ir.tensor(np.ones(1, np.float32), name=f"one{i}")
            node.replace_input_with(1, ir.Value(name=f"one{i}", const_value=one))
    fuse_blocked_bias(model)
    assert Counter(node.op_type for node in model.graph)["Add"] == len(WIDTHS)


@pytest.mark.parametrize("biases", [0, 1, 2, 3])
def test_biases_come_along_when_products_are_joined(biases: int, assert_close: Compare) -> None:
    model = _products("int8-blocks", biases=biases)
    joined = finish(join_products(fuse_blocked_bias(copy_of(model))), 23)
    _assert_same(joined, model, assert_close)
    kinds = {0: 1, 1: 2, 2: 2, 3: 1}[biases]  # those with a bias, and those without
    assert Counter(node.op_type for node in joined.graph)["MatMulNBits"] == kinds
