"""Bias, residual and normalization in one kernel, for ONNX Runtime.

Contract: every ``LayerNormalization(x + (product + bias))`` over narrow rows becomes ``SkipLayerNormalization(x,
product, bias)``; the same numbers, two operators fewer. A Reshape between the bias and the residual moves before the
bias. For steps of few rows: the kernel is slow on many or wide ones (see :mod:`.centred_norm`).
"""

from __future__ import annotations

import onnx_ir as ir

from .patterns import CONTRIB, replace_uses, shift_of

NARROW = 512
"""Rows of fewer numbers are narrow. At this width one row takes as long by either kernel, and five half as long by the
other; at 128 one row takes 1.5 times as long by the other, and five take as long."""


def fuse_residual_norm(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    for node in list(model.graph):
        if node.op_type == "LayerNormalization" and _width(node) < NARROW:
            _fuse(model.graph, node)
    return model


def _width(norm: ir.Node) -> int:
    scale = norm.inputs[1]
    assert scale is not None and scale.shape is not None
    return int(scale.shape[0])  # type: ignore[arg-type]


def _fuse(graph: ir.Graph, norm: ir.Node) -> None:
    (total, scale), shift = norm.inputs[:2], shift_of(norm)
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
