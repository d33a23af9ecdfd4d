"""Self-attention of an encoder in ONNX Runtime's own kernel.

Contract: every portable ``Attention`` of an encoder layer becomes one ``MultiHeadAttention`` that reads q, k and v
before their heads are split, adds their biases, where they have some, itself, and takes the padding as a key mask; the
same numbers within rounding, some ten operators a layer fewer. The kernel wants as many heads of keys as of queries.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import ExportError
from ...runtime.bundle import signature as names
from .grouped_attention import is_grouped
from .patterns import CONTRIB, after_heads, before_heads, constant, has_bias, replace_uses, without_bias


def fuse_encoder_attention(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up.

    Raises:
        ExportError: several query heads of an encoder read the same keys.
    """
    graph = model.graph
    layers = [n for n in graph if n.op_type == "Attention" and (n.name or "").startswith("encoder.layers.")]
    if not layers:
        return model
    mask = next(value for value in graph.inputs if value.name == names.MASK)
    cast = ir.node("Cast", [mask], {"to": ir.DataType.INT32})
    graph.insert_before(graph[0], cast)
    for node in layers:
        fused = _fused(graph, node, cast.outputs[0])
        graph.insert_before(node, fused)
        replace_uses(after_heads(node), fused.outputs[0])
    return model


def _fused(graph: ir.Graph, node: ir.Node, mask: ir.Value) -> ir.Node:
    heads, kv_heads = (int(value.shape[1]) for value in node.inputs[:2])  # type: ignore[union-attr,index,arg-type]
    if is_grouped(node):
        raise ExportError(
            f"{node.name}: {heads} heads over {kv_heads} of keys and values, expected as many of both in an encoder: "
            "export it for openvino only"
        )
    sources, bias = [before_heads(source) for source in node.inputs[:3]], None
    if all(map(has_bias, sources)):
        projections = [without_bias(source) for source in sources]
        sources = [product for product, _ in projections]
        bias = constant(graph, f"{node.name}.bias", ir.tensor(np.concatenate([b for _, b in projections])))
    return ir.node("MultiHeadAttention", [*sources, bias, mask], {"num_heads": heads}, domain=CONTRIB, name=node.name)
