"""Self-attention of an encoder in ONNX Runtime's own kernel.

Contract: every portable ``Attention`` of an encoder layer becomes one ``MultiHeadAttention`` that reads q, k and v
before their heads are split, adds their biases itself, and takes the padding as a key mask; the same numbers within
rounding, some ten operators a layer fewer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...runtime.bundle import signature as names
from .patterns import CONTRIB, after_heads, before_heads, constant, replace_uses, without_bias


def fuse_encoder_attention(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    graph = model.graph
    layers = [n for n in graph if n.op_type == "Attention" and (n.name or "").startswith("encoder.layers.")]
    if not layers:
        return model
    mask = next(value for value in graph.inputs if value.name == names.MASK)
    cast = ir.node("Cast", [mask], {"to": ir.DataType.INT32})
    graph.insert_before(graph[0], cast)
    for node in layers:
        heads = node.inputs[0].shape[1]  # type: ignore[union-attr,index]
        projections = [without_bias(before_heads(source)) for source in node.inputs[:3]]
        bias = constant(graph, f"{node.name}.bias", ir.tensor(np.concatenate([bias for _, bias in projections])))
        fused = ir.node(
            "MultiHeadAttention",
            [*(product for product, _ in projections), bias, cast.outputs[0]],
            {"num_heads": int(heads)},  # type: ignore[arg-type]
            domain=CONTRIB,
            name=node.name,
        )
        graph.insert_before(node, fused)
        replace_uses(after_heads(node), fused.outputs[0])
    return model
