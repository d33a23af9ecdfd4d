"""Relative positions where it is known where keys stand: the bias of a few queries, computed from their places.

Contract. In the portable form, self-attention with relative positions has ``Where(mask, bias, never)`` for its mask,
and ``bias (B, H, T, C)`` is looked up by the places of queries and keys; those of keys are counted on ``key_mask``.
Where no key is padding, :func:`keys_by_index` puts indices in place of that count. Where a kernel takes the bias
itself, :func:`bias_of_step` makes it for one query a row, all after as many tokens; out of that :func:`moved_bias`
makes it for rows that have read any numbers of tokens.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .patterns import axis_list, constant, emit, made_by, only_reader, producer, replace_uses


def has_relative_bias(attention: ir.Node) -> bool:
    """Whether the mask of a portable ``Attention`` holds a bias."""
    mask = attention.inputs[3]
    where = mask.producer() if mask is not None else None
    return where is not None and where.op_type == "Where"


def keys_by_index(graph: ir.Graph, indices: ir.Value) -> None:
    """Read ``indices (1, C)`` for the positions of keys."""
    for node in list(graph):
        place = only_reader(node, "Sub") if node.op_type == "CumSum" else None  # windows count keys, too
        if place is not None:
            replace_uses(place.outputs[0], indices)


def bias_of_step(graph: ir.Graph, attention: ir.Node, past_length: ir.Value) -> ir.Value:
    """The bias ``(1, H, 1, C)`` of a portable ``Attention`` for a query after ``past_length (1,)`` int32 tokens."""
    bias = producer(attention.inputs[3], "Where").inputs[1]
    lookup = producer(producer(bias, "Transpose").inputs[0], "Gather")
    buckets = producer(lookup.inputs[1], "Gather").inputs[0]
    by_offset = emit(graph, "Gather", [lookup.inputs[0], buckets])
    return _bias(graph, by_offset, past_length, emit(graph, "Add", [past_length, _int32(graph, 1)]))


def is_bias_of_step(bias: ir.Value | None) -> bool:
    """Whether a value is what :func:`bias_of_step` makes."""
    return made_by(_lookup(bias), "Gather") is not None


def moved_bias(graph: ir.Graph, bias: ir.Value | None, lengths: ir.Value, longest: ir.Value) -> ir.Value:
    """The ``bias`` of a step for rows that have read ``lengths (R,)`` tokens: ``(R, H, 1, longest)``.

    ``longest (1,)`` is one more than the greatest of them; both are int32. Nothing looks behind a row's own token.
    """
    lookup = _lookup(bias)
    assert lookup is not None and lookup.inputs[0] is not None
    return _bias(graph, lookup.inputs[0], lengths, longest)


def _bias(graph: ir.Graph, by_offset: ir.Value, lengths: ir.Value, longest: ir.Value) -> ir.Value:
    """``by_offset (2 * farthest + 1, H)``: what is added for every offset; it depends on no input."""
    buckets = producer(by_offset, "Gather").inputs[1]
    assert buckets is not None and buckets.const_value is not None
    farthest = (buckets.const_value.size - 1) // 2
    keys = emit(graph, "Range", [_int32(graph, 0), emit(graph, "Squeeze", [longest]), _int32(graph, 1)])  # (C,)
    offset = emit(graph, "Sub", [keys, emit(graph, "Unsqueeze", [lengths, axis_list(graph, 1)])])  # (R, C)
    near = emit(graph, "Clip", [offset, _int32(graph, -farthest), _int32(graph, farthest)])
    rows = emit(graph, "Gather", [by_offset, emit(graph, "Add", [near, _int32(graph, farthest)])])  # (R, C, H)
    heads = emit(graph, "Transpose", [rows], {"perm": [0, 2, 1]})  # (R, H, C)
    return emit(graph, "Unsqueeze", [heads, axis_list(graph, 2)])


def _lookup(bias: ir.Value | None) -> ir.Node | None:
    unsqueeze = bias.producer() if bias is not None else None
    return made_by(made_by(unsqueeze, "Transpose"), "Gather")


def _int32(graph: ir.Graph, value: int) -> ir.Value:
    return constant(graph, f"int32_{value}", ir.tensor(np.array(value, np.int32)))
