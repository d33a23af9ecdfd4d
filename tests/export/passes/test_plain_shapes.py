"""Shape arithmetic without detours: fewer operators, the same numbers for every size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.export.passes.patterns import copy_of, finish
from edgewise.export.passes.plain_shapes import straighten_shapes

from .conftest import compute, decoder_sizes, random_inputs

pytestmark = pytest.mark.slow
Portable = Callable[[str, str], ir.Model]
Compare = Callable[..., None]
TRANSLATOR = "encoder-decoder post relu"


def _straight(model: ir.Model) -> ir.Model:
    return finish(straighten_shapes(copy_of(model)), 23)


@pytest.mark.parametrize("sizes", [decoder_sizes(1, 1, 1, 0, 1), decoder_sizes(2, 5, 3, 4)], ids=["smallest", "beams"])
def test_same_numbers(sizes: dict[str, int], portable: Portable, assert_close: Compare) -> None:
    model = portable(TRANSLATOR, "decoder")
    inputs = random_inputs(model, sizes)
    expected, actual = compute(model, inputs), compute(_straight(model), inputs)
    for name, value in expected.items():
        assert_close(actual[name], value)


def test_fewer_operators(portable: Portable) -> None:
    model = portable(TRANSLATOR, "decoder")
    before, after = (Counter(node.op_type for node in m.graph) for m in (model, _straight(model)))
    assert before["Reshape"] - after["Reshape"] >= 3
    assert after["Squeeze"] < before["Squeeze"]
    assert after["Shape"] <= before["Shape"]


def test_other_reshapes_stay() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("a", "b")))
    target = ir.Value(name="target", const_value=ir.tensor(np.array([-1])))
    node = ir.node("Reshape", [x, target])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], initializers=[target], opset_imports={"": 23}, name="flat")
    straighten_shapes(ir.Model(graph, ir_version=10))
    assert [n.op_type for n in graph] == ["Reshape"]
    assert graph.outputs[0].producer() is node
