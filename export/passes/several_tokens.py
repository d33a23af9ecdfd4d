"""Several tokens of one text in one call, each of them what a step would have made of it, to the bit.

Contract. From a ``step`` graph, ``verify``: ``ids (T, 1)`` are ``T`` tokens of one text, one after the other, the first
of which follows ``past_length`` tokens; row ``t`` of the logits is what ``step`` gives for token ``t`` after the ones
before it. What works on rows alone (products, norms, the feed-forward) is done for all ``T`` at once, which is what
saves time. Attention, whose sums depend on how many queries and keys a call sees, stays as ``step`` has it, one call a
token: each writes into the buffers that the one before it wrote into. Bind one buffer to ``key_cache_i`` and to all of
``key_cache_i_out_t``, and no cache is copied. To forget tokens is to pass a smaller ``past_length`` next time.

Only where a row's numbers are its own: not with one activation scale for all rows, nor where attention has a mask or a
bias beside its queries, keys and values, of which every token would need its own; that of relative positions is made
for every token.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import ExportError
from ...runtime.bundle import signature as names
from .patterns import CONTRIB, constant, copy_of, finish, name_output, replace_uses
from .relative_bias import is_bias_of_step, moved_bias

TOKENS = 8
"""Tokens of one call: fewer bring less where a text is copied, more cost more where it is not."""

_MIXES_ROWS = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul")
_BESIDE = {"DecoderMaskedMultiHeadAttention": (3, 4), "GroupQueryAttention": (9, 10), "MultiHeadAttention": (5,)}
"""Which inputs are masks, biases or positions of single queries."""
_ADDED = 4  # the bias of scores among the inputs of DecoderMaskedMultiHeadAttention
_KERNELS = {"DecoderMaskedMultiHeadAttention": 5, "GroupQueryAttention": 3}  # where the two caches are among the inputs


def keeps_rows_apart(model: ir.Model) -> bool:
    """Whether every row of a graph is computed by itself, from what all tokens of a text share."""
    return not any(node.op_type in _MIXES_ROWS or _has_beside(node) for node in model.graph)


def _has_beside(node: ir.Node) -> bool:
    beside = [node.inputs[i] for i in _BESIDE.get(node.op_type, ()) if i < len(node.inputs)]
    return any(value is not None and not is_bias_of_step(value) for value in beside)


def verify_graph(step: ir.Model, tokens: int = TOKENS) -> ir.Model:
    """A ``step`` graph, before its candidates are chosen, as the ``verify`` graph of so many ``tokens``.

    Raises:
        ExportError: rows are not computed apart.
    """
    if not keeps_rows_apart(step):
        raise ExportError(
            "one activation scale for all rows, or a mask of single queries: tokens read together would not get the "
            "numbers of a step; expected neither"
        )
    model = copy_of(step)
    graph = model.graph
    ids, past_length = (_input(graph, name) for name in (names.IDS, names.PAST_LENGTH))
    ids.shape = ir.Shape((tokens, 1))
    logits = next(value for value in graph.outputs if value.name == names.LOGITS)
    assert logits.shape is not None
    logits.shape = ir.Shape((tokens, logits.shape[-1]))
    attentions = [node for node in graph if node.op_type in _KERNELS]
    _count_positions(graph, past_length, attentions, tokens)
    lengths = [_add(graph, past_length, f"token_{t}", np.array([t], np.int32)) for t in range(tokens + 1)]
    for node in attentions:
        _attend_one_by_one(graph, node, lengths)
    for node in list(graph):
        if node.op_type == "MultiHeadAttention":
            _ask_one_by_one(graph, node, tokens)
    return finish(model, model.graph.opset_imports[""])


def _count_positions(graph: ir.Graph, past_length: ir.Value, attentions: list[ir.Node], tokens: int) -> None:
    """Every row has a position of its own, ``(T, 1)``, where all rows of a step have the same."""
    uses = [use for use in past_length.uses() if use.node not in attentions]
    positions = _add(graph, past_length, "tokens", np.arange(tokens, dtype=np.int32)[:, None])
    for use in uses:
        use.node.replace_input_with(use.idx, positions)


def _attend_one_by_one(graph: ir.Graph, node: ir.Node, lengths: list[ir.Value]) -> None:
    """Self-attention: a call for every token, over what the calls before it have written."""
    tokens, place = len(lengths) - 1, _KERNELS[node.op_type]
    rows = [_split(graph, node.inputs[i], 0, tokens) for i in range(3)]
    caches, outputs = list(node.inputs[place : place + 2]), []
    for t in range(tokens):
        inputs = [*(row[t] for row in rows), *node.inputs[3:]]
        inputs[place : place + 2] = caches
        if node.op_type == "GroupQueryAttention":
            inputs[place + 2 : place + 4] = lengths[t : t + 2]
        else:
            inputs[place + 2] = lengths[t]
            if node.inputs[_ADDED] is not None:
                inputs[_ADDED] = moved_bias(graph, node.inputs[_ADDED], lengths[t], lengths[t + 1])
        call = _copy(graph, node, inputs, 3)
        outputs.append(call.outputs[0])
        caches = list(call.outputs[1:3])
        for written, cache in zip(caches, node.inputs[place : place + 2], strict=True):
            assert cache is not None and cache.name is not None and cache.shape is not None
            shape = tuple(cache.shape)
            name_output(graph, written, names.written(cache.name, t), ir.DataType.FLOAT, shape)  # type: ignore[arg-type]
    for value in node.outputs[1:3]:
        graph.outputs.remove(value)
    replace_uses(node.outputs[0], _concat(graph, outputs, 0))


def _ask_one_by_one(graph: ir.Graph, node: ir.Node, tokens: int) -> None:
    """Cross-attention: one query ``(1, 1, D)`` a call."""
    queries = _split(graph, node.inputs[0], 1, tokens)
    calls = [_copy(graph, node, [query, *node.inputs[1:]], 1) for query in queries]
    replace_uses(node.outputs[0], _concat(graph, [call.outputs[0] for call in calls], 1))


def _copy(graph: ir.Graph, node: ir.Node, inputs: list[ir.Value | None], outputs: int) -> ir.Node:
    call = ir.Node(CONTRIB, node.op_type, inputs, list(node.attributes.values()), num_outputs=outputs)
    graph.append(call)
    return call


def _split(graph: ir.Graph, value: ir.Value | None, axis: int, count: int) -> list[ir.Value]:
    node = ir.node("Split", [value], {"axis": axis, "num_outputs": count}, num_outputs=count)
    graph.append(node)
    return list(node.outputs)


def _concat(graph: ir.Graph, values: list[ir.Value], axis: int) -> ir.Value:
    node = ir.node("Concat", values, {"axis": axis})
    graph.append(node)
    return node.outputs[0]


def _add(graph: ir.Graph, value: ir.Value, name: str, offset: NDArray[np.int32]) -> ir.Value:
    node = ir.node("Add", [value, constant(graph, name, ir.tensor(offset))])
    graph.append(node)
    return node.outputs[0]


def _input(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.inputs if value.name == name)
