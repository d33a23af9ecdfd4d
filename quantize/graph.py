"""Quantizing a graph: every linear layer and the embedding, by name, with the kernels that were chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from ..errors import ExportError
from .emit import Emitter
from .kernels import KERNELS, Scaling, embedding
from .schemes import Kernel

VOCABULARY = "vocabulary"
EMBEDDING = "embedding"


def matrices(model: ir.Model) -> Iterator[tuple[ir.Node, str, NDArray[np.float32]]]:
    """Node, name and weight ``(N, K)`` of every linear layer: the MatMuls whose matrix is a transposed parameter."""
    for node in list(model.graph):
        if node.op_type != "MatMul":
            continue
        transpose = node.inputs[1].producer() if node.inputs[1] is not None else None
        weight = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else None
        if weight is not None and weight.const_value is not None and node.name:
            yield node, node.name, weight.const_value.numpy()


def readers(model: ir.Model) -> Iterator[list[tuple[ir.Node, str, NDArray[np.float32]]]]:
    """:func:`matrices`, those together that read the same value."""
    groups: dict[int, list[tuple[ir.Node, str, NDArray[np.float32]]]] = {}
    for matrix in matrices(model):
        groups.setdefault(id(matrix[0].inputs[0]), []).append(matrix)
    yield from groups.values()


def quantize_graph(
    model: ir.Model, chosen: Mapping[str, Kernel], scalings: Mapping[str, Scaling] | None = None
) -> ir.Model:
    """A copy of a portable ``model`` whose matrices are carried by the ``chosen`` kernels, by matrix name.

    ``scalings``: those of matrices that ``int8-scaled-rows`` carries.

    The embedding is carried as the output projection is, named ``vocabulary`` in ``chosen``, and where the two are one
    matrix it is read from the same integers.

    Raises:
        ExportError: no kernel is chosen for a matrix, or one that cannot carry it.
    """
    if missing := {VOCABULARY, *(name for _, name, _ in matrices(model))} - chosen.keys():
        raise ExportError(f"no kernel is chosen for {', '.join(sorted(missing))}: choose one for every matrix")
    model = model.clone()
    graph = model.graph
    tied = VOCABULARY not in {name for _, name, _ in matrices(model)} or f"{EMBEDDING}.weight" in _matrix_of(model)
    for node, name, weight in matrices(model):
        kernel = chosen[name]
        if kernel != "float32":
            emitter = Emitter(graph, node)
            assert node.inputs[0] is not None
            stored = EMBEDDING if name == VOCABULARY and tied else name
            # The output projection has no factors: an embedding may read the same integers.
            scaled = scalings.get(name) if scalings and name != VOCABULARY else None
            own = [scaled] if kernel == "int8-scaled-rows" else []
            _replace(graph, node, KERNELS[kernel](emitter, node.inputs[0], stored, weight, *own))
    for node in list(graph):
        if node.op_type == "Gather" and node.name == EMBEDDING and chosen[VOCABULARY] != "float32":
            weight = node.inputs[0].const_value.numpy()  # type: ignore[union-attr]
            assert node.inputs[1] is not None
            _replace(
                graph, node, embedding(Emitter(graph, node), node.inputs[1], EMBEDDING, weight, chosen[VOCABULARY])
            )
    return _finish(model)


def _matrix_of(model: ir.Model) -> set[str | None]:
    """Names of the parameter that the output projection multiplies by."""
    products = (node for node, name, _ in matrices(model) if name == VOCABULARY)
    return {node.inputs[1].producer().inputs[0].name for node in products}  # type: ignore[union-attr]


def _replace(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    """Readers of the node's output read ``result``, whose node takes over the name that later passes look for.

    Where that output was one of the graph (logits without a bias), ``result`` is it now.
    """
    old = node.outputs[0]
    result.shape, result.type = old.shape, old.type
    producer = result.producer()
    assert producer is not None
    producer.name = node.name
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, result)
    for i, value in enumerate(graph.outputs):
        if value is old:
            name, old.name = old.name, None
            result.name = name
            graph.outputs[i] = result


def _finish(model: ir.Model) -> ir.Model:
    for step in (
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.TopologicalSortPass(),
        common.NameFixPass(),
    ):
        step(model)
    if any(node.domain for node in model.graph):
        model.graph.opset_imports["com.microsoft"] = 1
    return model
