"""Shape arithmetic without detours.

Contract: ``Reshape(Squeeze(Shape(x, i, i + 1)), [-1])``, how a traced size comes to stand in a list of sizes, becomes
``Shape(x, i, i + 1)``; the same numbers, two operators fewer each time.
"""

from __future__ import annotations

import onnx_ir as ir

from .patterns import made_by, replace_uses


def straighten_shapes(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    for node in list(model.graph):
        if node.op_type == "Reshape":
            size = made_by(made_by(node, "Squeeze"), "Shape")
            target = node.inputs[1].const_value if node.inputs[1] is not None else None
            if size is not None and target is not None and target.numpy().tolist() == [-1]:
                replace_uses(node.outputs[0], size.outputs[0])
    return model
