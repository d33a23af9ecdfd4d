"""Bias inside the blocked product, for ONNX Runtime.

Contract: ``MatMulNBits(x, ...) + bias`` becomes ``MatMulNBits(x, ..., bias)``; the same numbers, one operator fewer.
"""

from __future__ import annotations

import onnx_ir as ir

from .patterns import hand_over_output, replace_uses

BIAS_INPUT = 5


def fuse_blocked_bias(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    for node in list(model.graph):
        if node.op_type == "MatMulNBits" and len(node.inputs) <= BIAS_INPUT:
            add = _bias_after(node)
            if add is not None:
                node.resize_inputs(BIAS_INPUT + 1)
                node.replace_input_with(BIAS_INPUT, add.inputs[1])
                replace_uses(add.outputs[0], node.outputs[0])
                hand_over_output(model.graph, add.outputs[0], node.outputs[0])
    return model


def _bias_after(node: ir.Node) -> ir.Node | None:
    """The one reader, where it adds an initializer with a value an output channel."""
    uses = list(node.outputs[0].uses())
    add = uses[0].node if len(uses) == 1 else None
    if add is None or add.op_type != "Add" or add.inputs[0] is not node.outputs[0]:
        return None
    bias = add.inputs[1]
    width = node.attributes["N"].as_int()
    known = bias is not None and bias.const_value is not None and tuple(bias.const_value.shape) == (width,)
    return add if known else None
