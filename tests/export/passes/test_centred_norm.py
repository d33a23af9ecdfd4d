"""Layer normalization centred first: the same numbers wherever it occurs, and those of a formula in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.export.passes.centred_norm import centre_norms
from edgewise.export.passes.patterns import copy_of, finish

from ..conftest import NETWORKS
from .conftest import compute, decoder_sizes, random_inputs

Portable = Callable[[str, str], ir.Model]
Compare = Callable[..., None]
GRAPHS = [(name, "decoder") for name in NETWORKS if "decoder" in name]
GRAPHS += [(name, "encoder") for name in NETWORKS if not name.startswith("decoder")]


def _centred(model: ir.Model) -> ir.Model:
    return finish(centre_norms(copy_of(model)), 24)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "graph"), GRAPHS, ids=" ".join)
def test_same_numbers(network: str, graph: str, portable: Portable, assert_close: Compare) -> None:
    model = portable(network, graph)
    before, after = (Counter(node.op_type for node in m.graph) for m in (model, _centred(model)))
    assert after["LayerNormalization"] == 0
    assert after["RMSNormalization"] == before["LayerNormalization"] > 0
    inputs = random_inputs(model, decoder_sizes(2, 3, 4, 2))
    expected, actual = compute(model, inputs), compute(_centred(model), inputs)
    for name, value in expected.items():
        assert_close(actual[name], value)


def _norm(scale: np.ndarray, shift: np.ndarray | None, epsilon: float) -> ir.Model:
    """A graph of nothing but one norm, whose output is the graph's."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=kind, shape=ir.Shape(("rows", len(scale))))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 24}, name="norm")
    weights = []
    for name, array in (("scale", scale), ("shift", shift)):
        if array is None:
            continue
        value = ir.Value(name=name, type=kind, shape=ir.Shape(array.shape), const_value=ir.tensor(array, name=name))
        graph.register_initializer(value)
        weights.append(value)
    node = ir.node("LayerNormalization", [x, *weights], {"epsilon": epsilon, "axis": -1})
    graph.append(node)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", kind, x.shape
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=11)


@pytest.mark.parametrize("offset", [0.0, 3.0, 1000.0], ids="mean{:g}".format)
@pytest.mark.parametrize("spread", [1e-6, 1.0, 100.0], ids="spread{:g}".format)
def test_the_formula(offset: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    scale, shift = rng.standard_normal((2, 96)).astype(np.float32)
    x = (offset + spread * rng.standard_normal((7, 96))).astype(np.float32)
    wide = x.astype(np.float64)
    variance = wide.var(axis=1, keepdims=True)
    expected = (wide - wide.mean(axis=1, keepdims=True)) / np.sqrt(variance + 1e-5) * scale + shift
    actual = compute(_centred(_norm(scale, shift, 1e-5)), {"x": x})["y"]
    # The mean of float32 numbers is known to some units in the last place, which count in spreads.
    mean_error = 2 * float(np.finfo(np.float32).eps) * offset / np.sqrt(spread**2 + 1e-5)
    np.testing.assert_allclose(actual, expected, atol=1e-5 + mean_error * np.abs(scale).max(), rtol=1e-5)


def test_a_norm_without_a_shift() -> None:
    rng = np.random.default_rng(2)
    scale, x = rng.standard_normal(96).astype(np.float32), rng.standard_normal((7, 96)).astype(np.float32)
    model = _centred(_norm(scale, None, 1e-5))
    assert [node.op_type for node in model.graph] == ["ReduceMean", "Sub", "RMSNormalization"]
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(compute(model, {"x": x})["y"], expected, atol=1e-5, rtol=1e-5)


def test_a_row_does_not_depend_on_its_mates() -> None:
    rng = np.random.default_rng(1)
    model = _centred(_norm(*rng.standard_normal((2, 512)).astype(np.float32), 1e-5))
    x = rng.standard_normal((37, 512)).astype(np.float32)
    together = compute(model, {"x": x})["y"]
    for row in range(len(x)):
        np.testing.assert_array_equal(compute(model, {"x": x[row : row + 1]})["y"][0], together[row])
