"""A step whose rows have read different numbers of tokens, so that sentences can join a run that is under way.

Contract: from a finished ``step`` graph the ``ragged`` graph over the same weights. Row ``r`` writes its token at place
``row_lengths[r]`` of its own buffers, which is also its position, and attends to what stands before it and to itself;
the numbers are those of ``step`` within rounding. ``longest`` is one more than the greatest of ``row_lengths``. Every
self-attention is a ``GroupQueryAttention``, the one kernel that takes a length for each row: it knows no beams, so
whoever reorders rows reorders the buffers, and it adds no biases of q, k and v, so they are added before it; the bias
of scores by relative positions it takes, a row's own for every row.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...runtime.bundle import signature as names
from .patterns import CONTRIB, add_input, constant, copy_of, drop_inputs, finish, hand_over_output, replace_uses
from .relative_bias import is_bias_of_step, moved_bias

WIDTH_UNIT = 8
"""The kernel takes heads whose width is a multiple of this."""
_MASK, _ADDED, _KEY_CACHE, _BIAS = 3, 4, 5, 10
"""Inputs of DecoderMaskedMultiHeadAttention: a mask and a bias of scores, both caches, the bias of q, k and v."""
_LENGTHS = 5
"""Inputs of GroupQueryAttention from here on: the lengths of all rows, and the greatest."""


def ragged_graph(step: ir.Model) -> ir.Model | None:
    """The ``ragged`` form of ``step``; ``None`` where the kernel does not take its heads or their scores."""
    model = copy_of(step)
    graph = model.graph
    attentions = [n for n in graph if n.op_type in ("GroupQueryAttention", "DecoderMaskedMultiHeadAttention")]
    if not attentions or not all(map(_fits, attentions)):
        return None
    lengths = [
        add_input(graph, names.ROW_LENGTHS, ir.DataType.INT32, ("rows",)),
        add_input(graph, names.LONGEST, ir.DataType.INT32, (1,)),
    ]
    for node in attentions:
        if node.op_type == "GroupQueryAttention":
            for i, value in enumerate(lengths):
                node.replace_input_with(_LENGTHS + i, value)
        else:
            _attend_by_row(graph, node, lengths)
    _place_by_row(graph, lengths[0])
    model = finish(model, graph.opset_imports[""])
    drop_inputs(graph, {value.name for value in graph.inputs if value.name and not value.uses()})
    return model


def _fits(node: ir.Node) -> bool:
    """Whether the kernel takes heads of that width, and what is added to their scores, if anything."""
    if node.op_type == "GroupQueryAttention":
        return True
    cache = node.inputs[_KEY_CACHE]
    assert cache is not None and cache.shape is not None
    added = node.inputs[_ADDED]
    takes = node.inputs[_MASK] is None and (added is None or is_bias_of_step(added))
    return takes and int(cache.shape[3]) % WIDTH_UNIT == 0  # type: ignore[arg-type]


def _attend_by_row(graph: ir.Graph, node: ir.Node, lengths: list[ir.Value]) -> None:
    """DecoderMaskedMultiHeadAttention -> GroupQueryAttention with as many heads of keys as of queries."""
    attributes = {name: node.attributes[name] for name in ("num_heads", "scale") if name in node.attributes}
    inputs = [*_with_biases(graph, node), *node.inputs[_KEY_CACHE : _KEY_CACHE + 2], *lengths]
    if node.inputs[_ADDED] is not None:
        inputs += [None, None, None, moved_bias(graph, node.inputs[_ADDED], lengths[0], lengths[1])]
    fused = ir.node(
        "GroupQueryAttention",
        inputs,
        attributes | {"kv_num_heads": node.attributes["num_heads"].as_int()},
        domain=CONTRIB,
        num_outputs=3,
        name=node.name,
    )
    graph.insert_before(node, fused)
    for old, new in zip(node.outputs, fused.outputs, strict=True):
        replace_uses(old, new)
        hand_over_output(graph, old, new)


def _with_biases(graph: ir.Graph, node: ir.Node) -> list[ir.Value | None]:
    """Queries, keys and values ``(R, 1, D)``; their stored bias stays one tensor, split when a graph opens."""
    sources: list[ir.Value | None] = list(node.inputs[:3])
    bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
    if bias is None:
        return sources
    parts = ir.node("Split", [bias], {"axis": 0, "num_outputs": 3}, num_outputs=3)
    sums = [ir.node("Add", [source, part]) for source, part in zip(sources, parts.outputs, strict=True)]
    graph.insert_before(node, [parts, *sums])
    return [add.outputs[0] for add in sums]


def _place_by_row(graph: ir.Graph, lengths: ir.Value) -> None:
    """Positions, which one number gave to all rows, come from the lengths ``(R,) -> (R, 1)``."""
    past_length = next(value for value in graph.inputs if value.name == names.PAST_LENGTH)
    axis = constant(graph, "axis_of_one_token", ir.tensor(np.array([1], np.int64)))
    column = ir.node("Unsqueeze", [lengths, axis])
    graph.insert_before(graph[0], column)
    replace_uses(past_length, column.outputs[0])
