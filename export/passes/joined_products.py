"""Products of one input joined into one.

Contract: matrix products that read the same value (queries, keys and values of an attention; the cross-attention K/V of
all layers) become one product with their matrices side by side, and a Split; the same numbers, fewer and larger
kernels. Joins ``MatMulNBits`` with one another, biases included; ``MatMul`` with matrices that do not depend on any
input; and ``MatMulInteger`` of the same rounded rows, with the scales of weights and rows that follow it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .blocked_bias import BIAS_INPUT
from .patterns import CONTRIB, constant, is_constant, only_reader, replace_uses

MOST_COLUMNS = 4096
"""Wider than this a product gains nothing: the vocabulary's stands alone."""


def join_products(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    groups: dict[tuple[int, str, bool], list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.op_type == "MatMulNBits" or (node.op_type == "MatMul" and is_constant(node.inputs[1])):
            groups[id(node.inputs[0]), node.op_type, len(node.inputs) > BIAS_INPUT].append(node)
    _join_integers(model.graph)
    for (_, op_type, _), nodes in groups.items():
        widths = [_width(node) for node in nodes]
        if len(nodes) > 1 and None not in widths and sum(w or 0 for w in widths) <= MOST_COLUMNS:
            join = _join_blocked if op_type == "MatMulNBits" else _join_plain
            _split(model.graph, nodes, join(model.graph, nodes), [w or 0 for w in widths])
    return model


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


class _Scaled(NamedTuple):
    """``product`` of integers -> Cast -> times the scales of its weights -> times those of its rows: ``last``."""

    product: ir.Node
    weight_scale: ir.Value
    row_scale: ir.Value
    last: ir.Node


def _join_integers(graph: ir.Graph) -> None:
    groups: dict[tuple[int, int], list[_Scaled]] = defaultdict(list)
    for node in graph:
        if node.op_type == "MatMulInteger" and (scaled := _scaled(node)) is not None:
            groups[id(node.inputs[0]), id(scaled.row_scale)].append(scaled)
    for products in groups.values():
        widths = [_width(scaled.product) for scaled in products]
        if len(products) > 1 and None not in widths and sum(w or 0 for w in widths) <= MOST_COLUMNS:
            nodes = [scaled.last for scaled in products]
            _split(graph, nodes, _joined_integers(graph, products), [w or 0 for w in widths])


def _scaled(product: ir.Node) -> _Scaled | None:
    cast = only_reader(product, "Cast")
    by_weights = only_reader(cast, "Mul")
    by_rows = only_reader(by_weights, "Mul")
    if by_weights is None or by_rows is None or not is_constant(product.inputs[1]):
        return None
    weight_scale, row_scale = by_weights.inputs[1], by_rows.inputs[1]
    if weight_scale is None or row_scale is None or not is_constant(weight_scale):
        return None
    return _Scaled(product, weight_scale, row_scale, by_rows)


def _joined_integers(graph: ir.Graph, products: Sequence[_Scaled]) -> ir.Node:
    """The last of the nodes that stand for all ``products`` at once; ``_split`` puts it in, and these before it."""
    x, _, offset = products[0].product.inputs
    matrices = ir.node("Concat", [scaled.product.inputs[1] for scaled in products], {"axis": 1})
    scales = ir.node("Concat", [scaled.weight_scale for scaled in products], {"axis": 0})
    product = ir.node("MatMulInteger", [x, matrices.outputs[0], offset])
    cast = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    by_weights = ir.node("Mul", [cast.outputs[0], scales.outputs[0]])
    graph.insert_before(products[-1].last, [matrices, scales, product, cast, by_weights])
    return ir.node("Mul", [by_weights.outputs[0], products[0].row_scale])
