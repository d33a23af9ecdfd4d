"""Biases inside blocked products outlive the joining of the products: queries, keys and values have them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.export.passes.blocked_bias import fuse_blocked_bias
from edgewise.export.passes.joined_products import join_products
from edgewise.export.passes.patterns import copy_of, finish
from edgewise.quantize.emit import Emitter
from edgewise.quantize.kernels import KERNELS

from .conftest import compute

K, N = 64, 32


def _products(biases: tuple[bool, ...]) -> ir.Model:
    """``x`` times a blocked matrix for each of ``biases``, with a bias where it says so, then a Relu."""
    rng = np.random.default_rng(0)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("rows", K)))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23, "com.microsoft": 1}, name="products")
    emitter = Emitter(graph)
    for i, biased in enumerate(biases):
        y = KERNELS["int8-blocks"](emitter, x, f"w{i}", rng.standard_normal((N, K)).astype(np.float32))
        if biased:
            y = emitter.node("Add", [y, emitter.constant(f"b{i}", rng.standard_normal(N).astype(np.float32))])
        y = emitter.node("Relu", [y])
        y.name, y.type, y.shape = f"y{i}", x.type, ir.Shape(("rows", N))
        graph.outputs.append(y)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    ("biases", "products"),
    [((True, True, True), 1), ((False, False), 1), ((True, False, True, False), 2), ((True, False), 2)],
    ids=["all", "none", "some", "one"],
)
def test_no_bias_is_lost(biases: tuple[bool, ...], products: int, assert_close: Callable[..., None]) -> None:
    model = _products(biases)
    joined = finish(join_products(fuse_blocked_bias(copy_of(model))), 23)
    x = np.random.default_rng(1).standard_normal((5, K)).astype(np.float32)
    expected, actual = compute(model, {"x": x}), compute(joined, {"x": x})
    for name, value in expected.items():
        assert_close(actual[name], value)
    assert sum(node.op_type == "MatMulNBits" for node in joined.graph) == products
