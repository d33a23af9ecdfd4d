"""Stored numbers that only moved are stored as they are used; the graphs say the same and the file is no larger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.export import variants
from edgewise.export.passes.moved_weights import store_moved
from edgewise.export.passes.patterns import finish, is_constant
from edgewise.export.variants import variant_graphs
from edgewise.export.weights import write_graphs
from edgewise.quantize.graph import matrices, quantize_graph
from edgewise.quantize.schemes import Kernel
from edgewise.runtime.bundle.manifest import WEIGHTS_FILE

from ..conftest import Exported
from .conftest import compute, decoder_sizes, random_inputs

Get = Callable[[str], Exported]
NETWORK = "encoder-decoder pre gelu"


def _graphs(made: Exported, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, move: bool) -> dict[str, ir.Model]:
    portable = {name: ir.load(file) for name, file in made.files.items()}
    if kernel != "float32":
        chosen = {name: kernel for graph in portable.values() for _, name, _ in matrices(graph)}
        portable = {name: quantize_graph(graph, {"vocabulary": kernel, **chosen}) for name, graph in portable.items()}
    monkeypatch.setattr(variants, "store_moved", store_moved if move else lambda graphs: None)
    return variant_graphs(portable, "cpu")


def _moves(graphs: Mapping[str, ir.Model]) -> Counter[str]:
    nodes = (node for model in graphs.values() for node in model.graph if is_constant(node.outputs[0]))
    return Counter(node.op_type for node in nodes if node.op_type in ("Transpose", "Squeeze", "Unsqueeze"))


@pytest.mark.parametrize("kernel", ["float32", "int8-rows"])
def test_the_same_numbers_from_a_file_no_larger(
    kernel: Kernel, exported: Get, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = _graphs(exported(NETWORK), kernel, monkeypatch, move=False)
    after = _graphs(exported(NETWORK), kernel, monkeypatch, move=True)
    assert _moves(before)["Transpose"] > 40
    left = _moves(after)  # of the embedding, which lookups read as it is: once in every graph that ends in its scores
    assert set(left) == {"Transpose"}
    assert left["Transpose"] <= len(after)
    inputs = random_inputs(after["encoder"], decoder_sizes(2, 1, 5, 3))
    expected = compute(before["encoder"], inputs)
    for name, array in compute(after["encoder"], inputs).items():
        np.testing.assert_array_equal(array, expected[name])
    for name, graphs in (("before", before), ("after", after)):
        write_graphs(tmp_path / name, graphs)
    sizes = [(tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("before", "after")]
    assert sizes[1] <= sizes[0]


def _graph(*nodes: ir.Node, inputs: list[ir.Value], outputs: list[ir.Value], stored: list[ir.Value]) -> ir.Model:
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 23}, name="moves")
    for value in stored:
        graph.register_initializer(value)
    for value in outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return ir.Model(graph, ir_version=10)


def _stored(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)


def _all_moves() -> ir.Model:
    """Turned (to an order, and to the default one), joined, squeezed (named axes, and all), widened."""
    rng = np.random.default_rng(0)
    cube = _stored("cube", rng.standard_normal((2, 3, 4)).astype(np.float32))
    thin = _stored("thin", rng.standard_normal((1, 5, 1)).astype(np.float32))
    axis = _stored("axis", np.array([2], np.int64))
    turned = ir.node("Transpose", [cube], {"perm": [2, 0, 1]})
    back = ir.node("Transpose", [cube])
    joined = ir.node("Concat", [back.outputs[0], back.outputs[0]], {"axis": -1})
    one, every = ir.node("Squeeze", [thin, axis]), ir.node("Squeeze", [thin])
    wide = ir.node("Unsqueeze", [every.outputs[0], axes := _stored("axes", np.array([0, -1], np.int64))])
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()))
    ends = [ir.node("Mul", [x, node.outputs[0]]) for node in (turned, joined, one, wide)]
    for i, node in enumerate(ends):
        node.outputs[0].name = f"y{i}"
    nodes = (turned, back, joined, one, every, wide, *ends)
    return _graph(*nodes, inputs=[x], outputs=[n.outputs[0] for n in ends], stored=[cube, thin, axis, axes])


def test_every_move_as_the_engine_makes_it() -> None:
    before, model = _all_moves(), _all_moves()
    store_moved({"step": model})
    finish(model, 23)
    assert [node.op_type for node in model.graph] == ["Mul"] * 4
    x = {"x": np.array(1, np.float32)}
    expected = compute(before, x)
    for name, array in compute(model, x).items():
        np.testing.assert_array_equal(array, expected[name], strict=True)


def test_what_another_graph_reads_as_it_is_stays() -> None:
    table = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)

    def lookup(turn: bool) -> ir.Model:
        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()))
        stored = _stored("table", table)
        turned = [ir.node("Transpose", [stored])] if turn else []
        end = ir.node("Mul", [x, turned[0].outputs[0] if turn else stored])
        end.outputs[0].name = "y"
        return _graph(*turned, end, inputs=[x], outputs=[end.outputs[0]], stored=[stored])

    alone, both = lookup(turn=True), lookup(turn=True)
    store_moved({"step": alone})
    store_moved({"encoder": lookup(turn=False), "step": both})
    assert [node.op_type for node in alone.graph] == ["Mul"]
    assert [node.op_type for node in both.graph] == ["Transpose", "Mul"]
