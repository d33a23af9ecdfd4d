"""Bias, residual and normalization in one kernel, for ONNX Runtime.

Contract: every ``LayerNormalization(x + (product + bias))`` becomes ``SkipLayerNormalization(x, product, bias)``; the
same numbers, two operators fewer. A Reshape between the bias and the residual moves before the bias.
"""

from __future__ import annotations

import onnx_ir as ir

from .patterns import CONTRIB, replace_uses


def fuse_residual_norm(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    for node in list(model.graph):
        if node.op_type == "LayerNormalization":
            _fuse(model.graph, node)
    return model


def _fuse(graph: ir.Graph, norm: ir.Node) -> None:
    total, scale, shift = norm.inputs[:3]
    add = total.producer() if total is not None else None
    if add is None or add.op_type != "Add" or len(add.outputs[0].uses()) != 1:
        return  # post-norm only: with pre-norm the sum is read twice
    skip, branch = add.inputs
    biased = _biased(graph, branch)
    if biased is None:
        return
    product, bias = biased
    epsilon = norm.attributes["epsilon"].as_float()
    fused = ir.node(
        "SkipLayerNormalization",
        [skip, product, scale, shift, bias],
        {"epsilon": epsilon},
        domain=CONTRIB,
        name=norm.name,
    )
    graph.insert_before(norm, fused)
    replace_uses(norm.outputs[0], fused.outputs[0])


def _biased(graph: ir.Graph, branch: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """The product, reshaped like the residual, and the bias that ``branch`` adds up."""
    node = branch.producer() if branch is not None else None
    reshape = node if node is not None and node.op_type == "Reshape" else None
    if reshape is not None:
        node = reshape.inputs[0].producer() if reshape.inputs[0] is not None else None
    if node is None or node.op_type != "Add":
        return None
    product, bias = node.inputs
    if product is None or bias is None or not bias.is_initializer():
        return None
    if reshape is None:
        return product, bias
    moved = ir.node("Reshape", [product, reshape.inputs[1]], reshape.attributes)
    graph.insert_before(reshape, moved)
    return moved.outputs[0], bias
