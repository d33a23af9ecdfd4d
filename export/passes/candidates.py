"""The choice of candidates inside the graph.

Contract: a graph with ``logits (..., V)`` also gives ``top_log_probs`` and ``top_ids (..., k)`` for the ``k`` of input
``top_count``: the ``k`` largest log-softmax values over the whole vocabulary, best first, of equals the lower id first.
So that a step hands a few numbers to Python and not the vocabulary.
"""

from __future__ import annotations

import onnx_ir as ir

from ...runtime.bundle import signature as names
from .patterns import add_input, name_output


def choose_candidates(model: ir.Model) -> ir.Model:
    """Add the choice to ``model`` in place."""
    graph = model.graph
    logits = next(value for value in graph.outputs if value.name == names.LOGITS)
    assert logits.shape is not None
    count = add_input(graph, names.TOP_COUNT, ir.DataType.INT64, (1,))
    # One LogSoftmax over everything is vectorised throughout; ReduceLogSumExp, or Exp and a sum, take longer.
    log_probs = ir.node("LogSoftmax", [logits], {"axis": -1})
    top = ir.node("TopK", [log_probs.outputs[0], count], {"axis": -1}, num_outputs=2)
    graph.extend([log_probs, top])
    shape = (*logits.shape.dims[:-1], "candidates")
    name_output(graph, top.outputs[0], names.TOP_LOG_PROBS, ir.DataType.FLOAT, shape)  # type: ignore[arg-type]
    name_output(graph, top.outputs[1], names.TOP_IDS, ir.DataType.INT64, shape)  # type: ignore[arg-type]
    return model
