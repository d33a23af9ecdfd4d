"""The mean of a text's states, summed in an order that other texts do not change.

Contract: every portable ``ReduceSum`` over the tokens of ``Mul(states, weights)``, ``(B, S, D)`` and ``(B, S, 1)``,
becomes one product ``(B, 1, S) @ (B, S, D)``; the same numbers but for the order of float32 sums.

Why: ONNX Runtime's ReduceSum adds in another order when there is one text than when there are several, so that a text's
vector differed in its last bits beside others. A batched MatMul is one product a text.
"""

from __future__ import annotations

import onnx_ir as ir

from .patterns import axis_list, made_by, replace_uses


def sum_by_product(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    for node in list(model.graph):
        weighted = made_by(node, "Mul") if _is_over_tokens(node) else None
        if weighted is not None and _is_column(weighted.inputs[1]):
            _rewrite(model.graph, node, weighted)
    return model


def _is_over_tokens(node: ir.Node) -> bool:
    axis = node.inputs[1] if node.op_type == "ReduceSum" and len(node.inputs) > 1 else None
    axes = axis.const_value if axis is not None else None
    keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    return axes is not None and axes.numpy().tolist() == [1] and not keeps


def _is_column(value: ir.Value | None) -> bool:
    """Whether there is one number a token: ``(B, S, 1)``."""
    return value is not None and value.shape is not None and len(value.shape) == 3 and value.shape[2] == 1


def _rewrite(graph: ir.Graph, total: ir.Node, weighted: ir.Node) -> None:
    states, weights = weighted.inputs
    row = ir.node("Transpose", [weights], {"perm": [0, 2, 1]})
    product = ir.node("MatMul", [row.outputs[0], states])
    summed = ir.node("Squeeze", [product.outputs[0], axis_list(graph, 1)])
    graph.insert_before(total, [row, product, summed])
    replace_uses(total.outputs[0], summed.outputs[0])
