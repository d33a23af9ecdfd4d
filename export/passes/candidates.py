"""The choice of candidates inside the graph.

Contract: a graph with ``logits (..., V)`` also gives ``top_log_probs`` and ``top_ids (..., k)`` for the ``k`` of input
``top_count``: the ``k`` largest log-softmax values over the whole vocabulary, best first, of equals the lower id first.
So that a step hands a few numbers to Python and not the vocabulary.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...runtime.bundle import signature as names
from .patterns import add_input, constant, name_output


def choose_candidates(model: ir.Model, *, squeeze: bool) -> ir.Model:
    """Add the choice to ``model`` in place; ``squeeze`` drops the axis of length 1 before the vocabulary."""
    graph = model.graph
    logits = next(value for value in graph.outputs if value.name == names.LOGITS)
    vocabulary = logits.shape[-1] if logits.shape is not None else None
    dims: tuple[int | str, ...] = ("rows",) if squeeze else ("batch", "picks")
    if squeeze:
        logits = _squeezed(graph, logits, (*dims, vocabulary))  # type: ignore[arg-type]
    count = add_input(graph, names.TOP_COUNT, ir.DataType.INT64, (1,))
    # One LogSoftmax over everything is vectorised throughout; ReduceLogSumExp, or Exp and a sum, take longer.
    log_probs = ir.node("LogSoftmax", [logits], {"axis": -1})
    top = ir.node("TopK", [log_probs.outputs[0], count], {"axis": -1}, num_outputs=2)
    graph.extend([log_probs, top])
    name_output(graph, top.outputs[0], names.TOP_LOG_PROBS, ir.DataType.FLOAT, (*dims, "candidates"))
    name_output(graph, top.outputs[1], names.TOP_IDS, ir.DataType.INT64, (*dims, "candidates"))
    return model


def _squeezed(graph: ir.Graph, logits: ir.Value, shape: tuple[int | str, ...]) -> ir.Value:
    """``(R, 1, V) -> (R, V)`` under the old name."""
    axis = constant(graph, "axis_1", ir.tensor(np.array([1], np.int64)))
    node = ir.node("Squeeze", [logits, axis])
    graph.append(node)
    graph.outputs.remove(logits)
    logits.name = "logits_of_step"
    name_output(graph, node.outputs[0], names.LOGITS, ir.DataType.FLOAT, shape)
    return node.outputs[0]
