"""Cross-attention in ONNX Runtime's own kernel.

Contract: every portable ``Attention`` over ``cross_key_i``, ``cross_value_i`` becomes one ``MultiHeadAttention`` that
reads the queries before their heads are split and adds their bias itself (but where ``MatMulNBits`` will), takes the
ready keys and values, and the source's padding as a key mask; the same numbers within rounding, some ten operators a
layer fewer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...runtime.bundle import signature as names
from .patterns import (
    CONTRIB,
    after_heads,
    before_heads,
    constant,
    cross_attentions,
    has_bias,
    replace_uses,
    scale_of,
    without_bias,
)


def fuse_cross_attention(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    graph = model.graph
    layers = list(cross_attentions(graph))
    if not layers:
        return model
    mask = next(value for value in graph.inputs if value.name == names.CROSS_MASK)
    cast = ir.node("Cast", [mask], {"to": ir.DataType.INT32})
    graph.insert_before(graph[0], cast)
    for _, node in layers:
        query, key, value = node.inputs[:3]
        assert key is not None and key.shape is not None
        product, bias = _query(graph, f"{node.name}.bias", before_heads(query))
        fused = ir.node(
            "MultiHeadAttention",
            [product, key, value, bias, cast.outputs[0]],
            {"num_heads": int(key.shape[1]), **scale_of(node)},  # type: ignore[arg-type]
            domain=CONTRIB,
            name=node.name,
        )
        graph.insert_before(node, fused)
        replace_uses(after_heads(node), fused.outputs[0])
    return model


def _query(graph: ir.Graph, name: str, query: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """The product and its bias, which the operator adds to q, and to no keys and values that are ready."""
    if not has_bias(query):
        return query, None
    product, bias = without_bias(query)
    node = product.producer()
    if node is not None and node.op_type == "MatMulNBits":
        return query, None
    nothing = np.zeros(2 * len(bias), np.float32)
    return product, constant(graph, name, ir.tensor(np.concatenate([bias, nothing])))
