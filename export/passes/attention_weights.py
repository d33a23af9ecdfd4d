"""Where a decoder looks in its source, as a graph of its own: alignments without a cost for who does not ask.

Contract. From the portable ``decoder`` of an encoder-decoder, one teacher-forced pass over whole sentences, one row a
source::

    ids, positions (B, T), key_mask (B, T) bool, cross_key_{i}, cross_value_{i} (B, H, S, Dh), cross_mask (B, S) bool
    -> cross_attention (B, T, S)

the mean over heads of the weights ``softmax(Q K^T * scale)`` of one layer, in standard operators: each row sums to one,
padding of the source has none. What comes after those weights is gone, the other parameters are the decoder's own.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...runtime.bundle import signature as names
from .patterns import (
    constant,
    copy_of,
    cross_attentions,
    drop_inputs,
    emit,
    finish,
    name_output,
    producer,
    self_attentions,
)

_NEVER = -1e30
"""A score whose weight is zero; minus infinity would make NaN of a source that is all padding."""


def attention_graph(decoder: ir.Model, layer: int) -> ir.Model:
    """The portable ``decoder``, which stays as it is, up to the cross-attention weights of ``layer``."""
    model = copy_of(decoder)
    graph = model.graph
    opset = graph.opset_imports[""]
    for _, node in self_attentions(graph):
        for index in (1, 2):
            node.replace_input_with(index, producer(node.inputs[index], "Concat").inputs[1])
    _count_by_ids(graph)
    node = next(node for i, node in cross_attentions(graph) if i == layer)
    graph.outputs.clear()
    weights = _mean_over_heads(graph, node)
    name_output(graph, weights, names.CROSS_ATTENTION, ir.DataType.FLOAT, ("batch", "tokens", "source"))
    model = finish(model, opset)
    drop_inputs(graph, {value.name for value in graph.inputs if not value.uses() and value.name is not None})
    _rename_dims(graph)
    return model


def reads_whole_heads(decoder: ir.Model) -> bool:
    """Whether every query head of every cross-attention has a key head of its own, as this pass wants; none: no."""
    shapes = [
        [value.shape for value in node.inputs[:2] if value is not None] for _, node in cross_attentions(decoder.graph)
    ]
    return bool(shapes) and all(q is not None and k is not None and q[1] == k[1] for q, k in shapes)


def _count_by_ids(graph: ir.Graph) -> None:
    """Rows are counted on ``ids``, since the caches that counted them are going away."""
    ids = next(value for value in graph.inputs if value.name == names.IDS)
    for value in graph.inputs:
        if (value.name or "").startswith("past_"):
            for use in list(value.uses()):
                if use.node.op_type == "Shape":
                    use.node.replace_input_with(0, ids)


def _mean_over_heads(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """``(B, T, S)`` of the portable cross-attention ``node``."""
    query, key, _, mask = node.inputs[:4]
    assert query is not None and query.shape is not None
    scale = node.attributes["scale"].as_float() if "scale" in node.attributes else int(query.shape[3]) ** -0.5  # type: ignore[arg-type]
    scaled = emit(graph, "Mul", [query, constant(graph, "attention_scale", ir.tensor(np.array(scale, np.float32)))])
    scores = emit(graph, "MatMul", [scaled, emit(graph, "Transpose", [key], {"perm": [0, 1, 3, 2]})])  # (B, H, T, S)
    never = constant(graph, "never", ir.tensor(np.array(_NEVER, np.float32)))
    weights = emit(graph, "Softmax", [emit(graph, "Where", [mask, scores, never])], {"axis": -1})
    heads = constant(graph, "axis_of_heads", ir.tensor(np.array([1], np.int64)))
    return emit(graph, "ReduceMean", [weights, heads], {"keepdims": 0})


def _rename_dims(graph: ir.Graph) -> None:
    """One row a source, and no past: ``rows`` are ``batch``, ``keys`` are ``tokens``."""
    for value in graph.inputs:
        if value.shape is not None:
            same = {"rows": "batch", "keys": "tokens"}
            dims = [dim if isinstance(dim, int) else same.get(str(dim), str(dim)) for dim in value.shape]
            value.shape = ir.Shape(dims)
