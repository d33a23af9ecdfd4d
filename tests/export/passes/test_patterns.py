"""Finding one's way in a portable graph, and saying what is not as promised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.errors import ExportError
from edgewise.export.passes import patterns

pytestmark = pytest.mark.slow
Portable = Callable[[str, str], ir.Model]
TRANSLATOR = "encoder-decoder post relu"


def _chain(*op_types: str) -> tuple[ir.Graph, list[ir.Value]]:
    """``x`` through one node a type; the graph and every value."""
    values = [ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))]
    nodes = []
    for op_type in op_types:
        nodes.append(ir.node(op_type, [values[-1]]))
        values.append(nodes[-1].outputs[0])
        values[-1].name = f"after_{op_type}"
    graph = ir.Graph(values[:1], values[-1:], nodes=nodes, opset_imports={"": 23}, name="chain")
    return graph, values


def test_attentions_by_layer(portable: Portable) -> None:
    graph = portable(TRANSLATOR, "decoder").graph
    assert [layer for layer, _ in patterns.self_attentions(graph)] == [0, 1, 2]
    assert [node.name for _, node in patterns.cross_attentions(graph)] == [
        f"decoder.layers.{i}.cross_attention" for i in range(3)
    ]


def test_an_encoder_has_no_decoder_attention(portable: Portable) -> None:
    graph = portable(TRANSLATOR, "encoder").graph
    assert not [*patterns.self_attentions(graph), *patterns.cross_attentions(graph)]


def test_around_the_heads_of_an_attention(portable: Portable) -> None:
    graph = portable(TRANSLATOR, "decoder").graph
    _, node = next(patterns.self_attentions(graph))
    query = patterns.before_heads(node.inputs[0]).producer()
    assert query is not None
    assert query.name == "decoder.layers.0.attention.query.bias"
    [use] = patterns.after_heads(node).uses()
    assert use.node.name == "decoder.layers.0.attention.output"


def test_the_node_before_and_the_one_reader() -> None:
    graph, values = _chain("Relu", "Cast")
    relu, cast = graph
    assert patterns.made_by(cast, "Relu") is relu
    assert patterns.made_by(patterns.made_by(cast, "Relu"), "Cast") is None
    assert patterns.only_reader(relu, "Cast") is cast
    assert patterns.only_reader(relu, "Mul") is None
    assert patterns.only_reader(None, "Cast") is None
    assert patterns.only_reader(cast, "Mul") is None
    graph.append(ir.node("Mul", [values[0], values[2]]))
    assert patterns.only_reader(cast, "Mul") is None  # read second
    graph.append(ir.node("Cast", [values[1]]))
    assert patterns.only_reader(relu, "Cast") is None  # read twice


def test_producer_of_another_type() -> None:
    _, values = _chain("Relu")
    with pytest.raises(ExportError, match="after_Relu: expected a Add or Concat node before it, found Relu"):
        patterns.producer(values[1], "Add", "Concat")
    with pytest.raises(ExportError, match="x: expected a Add node before it, found none"):
        patterns.producer(values[0], "Add")
    with pytest.raises(ExportError, match=r"\?: expected a Add node before it, found none"):
        patterns.producer(None, "Add")


def test_only_use_that_is_not_the_only_one() -> None:
    graph, values = _chain("Relu", "Abs")
    assert patterns.only_use(values[1], "Abs").op_type == "Abs"
    graph.append(ir.node("Neg", [values[1]]))
    with pytest.raises(ExportError, match=r"after_Relu: expected one Abs node after it, found \['Abs', 'Neg'\]"):
        patterns.only_use(values[1], "Abs")


def test_constants_are_made_once_a_name() -> None:
    graph, _ = _chain("Relu")
    first = patterns.constant(graph, "one", ir.tensor(np.ones(1, np.int64)))
    assert patterns.constant(graph, "one", ir.tensor(np.ones(1, np.int64))) is first
    assert first.shape == [1]


def test_an_input_that_is_read_stays() -> None:
    graph, _ = _chain("Relu")
    patterns.add_input(graph, "unread", ir.DataType.INT32, (1,))
    patterns.drop_inputs(graph, {"unread", "no such input"})
    assert [value.name for value in graph.inputs] == ["x"]
    with pytest.raises(ExportError, match=r"input x is still read by \['Relu'\]"):
        patterns.drop_inputs(graph, {"x"})


def test_finish_drops_what_nothing_reads_and_names_operator_sets() -> None:
    graph, values = _chain("Relu")
    graph.append(ir.node("Abs", [values[0]]))
    fused = ir.node("Gelu", [values[1]], domain=patterns.CONTRIB)
    graph.append(fused)
    graph.outputs[:] = [fused.outputs[0]]
    model = patterns.finish(ir.Model(graph, ir_version=10), 24)
    assert [node.op_type for node in model.graph] == ["Relu", "Gelu"]
    assert model.graph.opset_imports == {"": 24, patterns.CONTRIB: 1}


def test_a_copy_is_rewritten_alone(portable: Portable) -> None:
    model = portable(TRANSLATOR, "encoder")
    count = len(model.graph)
    copy = patterns.copy_of(model)
    copy.graph.remove(copy.graph[-1], safe=False)
    assert len(model.graph) == count
