"""Products of one input joined into one.

Contract: matrix products that read the same value (queries, keys and values of an attention; the cross-attention K/V of
all layers) become one product with their matrices side by side, and a Split; the same numbers, fewer and larger
kernels. Joins ``MatMulNBits`` with one another, biases included, and ``MatMul`` with matrices that do not depend on any
input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .blocked_bias import BIAS_INPUT
from .patterns import CONTRIB, constant, replace_uses

MOST_COLUMNS = 4096
"""Wider than this a product gains nothing: the vocabulary's stands alone."""


def join_products(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    groups: dict[tuple[int, str, bool], list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.op_type == "MatMulNBits" or (node.op_type == "MatMul" and _is_constant(node.inputs[1])):
            groups[id(node.inputs[0]), node.op_type, len(node.inputs) > BIAS_INPUT].append(node)
    for (_, op_type, _), nodes in groups.items():
        widths = [_width(node) for node in nodes]
        if len(nodes) > 1 and None not in widths and sum(w or 0 for w in widths) <= MOST_COLUMNS:
            join = _join_blocked if op_type == "MatMulNBits" else _join_plain
            _split(model.graph, nodes, join(model.graph, nodes), [w or 0 for w in widths])
    return model


def _is_constant(value: ir.Value | None) -> bool:
    """Made of initializers alone."""
    if value is None or value.is_graph_input():
        return value is None
    node = value.producer()
    return value.is_initializer() if node is None else all(_is_constant(source) for source in node.inputs)


def _width(node: ir.Node) -> int | None:
    """Output columns of a product."""
    if node.op_type == "MatMulNBits":
        return node.attributes["N"].as_int()
    value = node.inputs[1]
    while value is not None and (before := value.producer()) is not None:
        value = before.inputs[0]  # through Transpose, Mul and Cast to the stored (N, K)
    return int(value.shape[0]) if value is not None and value.shape is not None else None  # type: ignore[arg-type]


def _join_blocked(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Node:
    first = nodes[0]
    name = f"{first.inputs[1].name}.joined"  # type: ignore[union-attr]
    joined = [
        None if value is None else constant(graph, f"{name}{i - 1}", ir.tensor(np.concatenate(_arrays(nodes, i))))
        for i, value in enumerate(first.inputs[1:], start=1)
    ]
    attributes: dict[str, ir.Attr] = dict(first.attributes)
    attributes["N"] = ir.AttrInt64("N", sum(_width(node) or 0 for node in nodes))
    return ir.Node(CONTRIB, "MatMulNBits", [first.inputs[0], *joined], list(attributes.values()), num_outputs=1)


def _arrays(nodes: Sequence[ir.Node], index: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """What every product reads there: its weights, its scales, or its bias."""
    values = [node.inputs[index] for node in nodes]
    assert all(value is not None and value.const_value is not None for value in values)
    return [value.const_value.numpy() for value in values]  # type: ignore[union-attr]


def _join_plain(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Node:
    """The Concat of the matrices is of constants: ONNX Runtime computes it once, at load."""
    matrices = ir.node("Concat", [node.inputs[1] for node in nodes], {"axis": 1})
    graph.insert_before(nodes[-1], matrices)
    return ir.node("MatMul", [nodes[0].inputs[0], matrices.outputs[0]])


def _split(graph: ir.Graph, nodes: Sequence[ir.Node], joined: ir.Node, widths: Sequence[int]) -> None:
    """Give every reader of a single product its columns of the joined one."""
    sizes = constant(graph, "columns_" + "_".join(map(str, widths)), ir.tensor(np.array(widths, np.int64)))
    split = ir.node("Split", [joined.outputs[0], sizes], {"axis": -1}, num_outputs=len(nodes))
    graph.insert_before(nodes[-1], joined)
    graph.insert_before(nodes[-1], split)
    for node, part in zip(nodes, split.outputs, strict=True):
        replace_uses(node.outputs[0], part)
