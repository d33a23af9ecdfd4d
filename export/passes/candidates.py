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
    top = ir.node("TopK", [logits, count], {"axis": -1}, num_outputs=2)
    graph.append(top)
    last = constant(graph, "last_axis", ir.tensor(np.array([-1], np.int64)))
    log_probs = _log_softmax_at(graph, logits, top.outputs[0], last)
    name_output(graph, log_probs, names.TOP_LOG_PROBS, ir.DataType.FLOAT, (*dims, "candidates"))
    name_output(graph, top.outputs[1], names.TOP_IDS, ir.DataType.INT64, (*dims, "candidates"))
    return model


def _log_softmax_at(graph: ir.Graph, logits: ir.Value, best: ir.Value, axis: ir.Value) -> ir.Value:
    """Log-softmax at ``best (..., k)``, the largest logits first: ``(best - m) - log(sum(exp(logits - m)))``.

    Spelled out, for ONNX Runtime vectorises Exp but not ReduceLogSumExp: a third of the time.
    """
    zero, one = (constant(graph, f"index_{i}", ir.tensor(np.array([i], np.int64))) for i in (0, 1))
    largest = ir.node("Slice", [best, zero, one, axis])
    shifted = ir.node("Sub", [logits, largest.outputs[0]])
    exponential = ir.node("Exp", [shifted.outputs[0]])
    total = ir.node("ReduceSum", [exponential.outputs[0], axis], {"keepdims": 1})
    normalizer = ir.node("Log", [total.outputs[0]])
    relative = ir.node("Sub", [best, largest.outputs[0]])
    log_probs = ir.node("Sub", [relative.outputs[0], normalizer.outputs[0]])
    graph.extend([largest, shifted, exponential, total, normalizer, relative, log_probs])
    return log_probs.outputs[0]


def _squeezed(graph: ir.Graph, logits: ir.Value, shape: tuple[int | str, ...]) -> ir.Value:
    """``(R, 1, V) -> (R, V)`` under the old name."""
    axis = constant(graph, "axis_1", ir.tensor(np.array([1], np.int64)))
    node = ir.node("Squeeze", [logits, axis])
    graph.append(node)
    graph.outputs.remove(logits)
    logits.name = "logits_of_step"
    name_output(graph, node.outputs[0], names.LOGITS, ir.DataType.FLOAT, shape)
    return node.outputs[0]
