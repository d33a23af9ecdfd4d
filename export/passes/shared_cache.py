"""The decoder for ONNX Runtime's CPU provider: cache in shared buffers, beams by index.

Contract. From the portable ``decoder``:

``step``: one token a row after ``past_length`` tokens. Keys and values are written into the buffers that come in as
``key_cache_i`` and go out as ``key_cache_i_out``: bind one buffer to both, and no cache is ever copied. Which beam
holds each past token is said by ``cache_indirection``, so that beams are reordered by a few integers. Where heads share
keys and values, or see a window, no kernel knows beams: that input is missing then, and a row continues the buffers of
that row.

``prefill``: the first ``T`` tokens of each sentence, causal, written into the buffers of all its ``K`` beams; logits at
``logit_index``. Also one teacher-forced pass.

Both leave cross-attention and logits as they are. The position of a token is its index: sentences of a call are equally
long, or padded on the right where nothing looks.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...runtime.bundle import signature as names
from .cross_attention import fuse_cross_attention
from .grouped_attention import grouped_attention, needs_grouped
from .patterns import (
    CONTRIB,
    add_input,
    after_heads,
    axis_list,
    before_heads,
    constant,
    copy_of,
    drop_inputs,
    emit,
    finish,
    has_bias,
    name_output,
    producer,
    replace_uses,
    scale_of,
    self_attentions,
    the_rest,
    unturned,
    without_bias,
)
from .plain_shapes import straighten_shapes
from .relative_bias import bias_of_step, has_relative_bias, keys_by_index
from .residual_norm import fuse_residual_norm

OPSET = 24  # TensorScatter


def step_graph(decoder: ir.Model) -> ir.Model:
    """The portable ``decoder`` as the ``step`` graph."""
    model = straighten_shapes(fuse_residual_norm(fuse_cross_attention(copy_of(decoder))))
    graph = model.graph
    past_length = add_input(graph, names.PAST_LENGTH, ir.DataType.INT32, (1,))
    beams = [
        add_input(graph, names.BEAM_WIDTH, ir.DataType.INT32, (1,)),
        add_input(graph, names.CACHE_INDIRECTION, ir.DataType.INT32, ("batch", "beams", "capacity")),
    ]
    ids = _input(graph, names.IDS)
    ids.shape = ir.Shape(("rows", 1))
    _count_by_ids(graph, ids)
    _rows_of_one_token(graph, ids)
    grouped = needs_grouped(graph)
    for layer, node in list(self_attentions(graph)):
        _attend_in_buffer(graph, layer, node, past_length, None if grouped else beams)
    replace_uses(_input(graph, names.POSITIONS), past_length)
    # The axis of one token goes before the vocabulary and not after it, where its removal would copy all logits.
    replace_uses(_picked(graph).outputs[0], emit(graph, "Squeeze", [_states(graph), axis_list(graph, 1)]))
    return _without_past(model, ("rows",))


def _attend_in_buffer(
    graph: ir.Graph, layer: int, node: ir.Node, past_length: ir.Value, beams: list[ir.Value] | None
) -> None:
    """Attention over ``Concat(past, new)`` -> one of ONNX Runtime's over the shared buffers.

    DecoderMaskedMultiHeadAttention finds the beams by index; without ``beams`` it is GroupQueryAttention.
    """
    key_shape = node.inputs[1].shape  # type: ignore[union-attr]
    assert key_shape is not None
    caches = _caches(graph, layer, int(key_shape[1]), int(key_shape[3]))  # type: ignore[arg-type]
    if beams is None:
        attention = grouped_attention(graph, node, past_length, caches)
    else:
        attention = _masked_attention(graph, node, int(key_shape[1]), past_length, beams, caches)  # type: ignore[arg-type]
    replace_uses(after_heads(node), attention.outputs[0])
    _cache_outputs(graph, layer, attention.outputs[1], attention.outputs[2], caches)


def _masked_attention(
    graph: ir.Graph, node: ir.Node, heads: int, past_length: ir.Value, beams: list[ir.Value], caches: list[ir.Value]
) -> ir.Node:
    """The kernel adds the biases of all three projections itself; where positions turn them first, it cannot."""
    key, value = (producer(source, "Concat").inputs[1] for source in node.inputs[1:3])
    sources = [_projected(graph, node, source, heads, past_length) for source in (node.inputs[0], key, value)]
    bias = None
    if all(map(has_bias, sources)):
        projections = [without_bias(source) for source in sources]
        sources = [product for product, _ in projections]
        bias = constant(graph, f"{node.name}.bias", ir.tensor(np.concatenate([b for _, b in projections])))
    added = bias_of_step(graph, node, past_length) if has_relative_bias(node) else None
    attention = ir.node(
        "DecoderMaskedMultiHeadAttention",
        [*sources, None, added, *caches, past_length, *beams, bias],
        {"num_heads": heads, "past_present_share_buffer": 1, **scale_of(node)},
        domain=CONTRIB,
        num_outputs=3,
        name=node.name,
    )
    graph.insert_before(node, attention)
    return attention


def _projected(graph: ir.Graph, node: ir.Node, source: ir.Value | None, heads: int, past_length: ir.Value) -> ir.Value:
    """``(R, 1, D)`` of queries, keys or values; turned by the position ``past_length`` where positions are rotary."""
    before, rotary = unturned(source)
    merged = before_heads(before)
    if rotary is None:
        return merged
    turned = ir.node(
        "RotaryEmbedding",
        [merged, *rotary.inputs[1:3], _position_of_rows(graph, past_length)],
        {"num_heads": heads},
    )
    graph.insert_before(node, turned)
    return turned.outputs[0]


def _position_of_rows(graph: ir.Graph, past_length: ir.Value) -> ir.Value:
    """``(R, 1)`` int64, made anew for every reader: what is equal is shared later."""
    shape = emit(graph, "Shape", [_input(graph, names.IDS)])
    return emit(graph, "Expand", [emit(graph, "Cast", [past_length], {"to": ir.DataType.INT64}), shape])


def prefill_graph(decoder: ir.Model) -> ir.Model:
    """The portable ``decoder`` as the ``prefill`` graph."""
    model = straighten_shapes(fuse_cross_attention(copy_of(decoder)))
    graph = model.graph
    beam_width = add_input(graph, names.BEAM_WIDTH, ir.DataType.INT32, (1,))
    ids = _input(graph, names.IDS)
    ids.shape = ir.Shape(("batch", "tokens"))
    _input(graph, names.LOGIT_INDEX).shape = ir.Shape(("batch", "picks"))
    repeat = _repeat_shape(graph, beam_width)
    for layer, node in list(self_attentions(graph)):
        for index in (1, 2):
            node.replace_input_with(index, producer(node.inputs[index], "Concat").inputs[1])
        _scatter(graph, layer, node, repeat)
    _count_by_ids(graph, ids)
    replace_uses(_input(graph, names.KEY_MASK), _all_true(graph, ids))
    keys_by_index(graph, _range_of(graph, ids))
    _turn_by(graph, _range_of(graph, ids), ids)
    replace_uses(_input(graph, names.POSITIONS), _range_of(graph, ids))
    return _without_past(model, ("batch", "picks"))


def _turn_by(graph: ir.Graph, positions: ir.Value, ids: ir.Value) -> None:
    """Rotary positions want their own for every row: ``(1, T) -> (B, T)``."""
    turning = [node for node in graph if node.op_type == "RotaryEmbedding"]
    if turning:
        everywhere = emit(graph, "Expand", [positions, emit(graph, "Shape", [ids])])
        for node in turning:
            node.replace_input_with(3, everywhere)


def _scatter(graph: ir.Graph, layer: int, node: ir.Node, repeat: ir.Value) -> None:
    """Write a layer's keys and values to the front of the buffers of every beam."""
    shape = node.inputs[1].shape  # type: ignore[union-attr]
    assert shape is not None
    heads, width = int(shape[1]), int(shape[3])  # type: ignore[arg-type]
    caches = _caches(graph, layer, heads, width)
    written = []
    for cache, fresh in zip(caches, node.inputs[1:3], strict=True):
        unsqueezed = emit(graph, "Unsqueeze", [fresh, axis_list(graph, 1)])  # (B, 1, H, T, Dh)
        beams = emit(graph, "Expand", [unsqueezed, repeat])  # (B, K, H, T, Dh)
        merged = emit(graph, "Reshape", [beams, _merge_shape(graph, fresh)])  # (R, H, T, Dh)
        written.append(emit(graph, "TensorScatter", [cache, merged], {"axis": 2}))
    _cache_outputs(graph, layer, written[0], written[1], caches)


def _merge_shape(graph: ir.Graph, fresh: ir.Value | None) -> ir.Value:
    """``[-1, H, T, Dh]``."""
    tail = emit(graph, "Shape", [fresh], {"start": 1})
    return emit(graph, "Concat", [the_rest(graph), tail], {"axis": 0})


def _repeat_shape(graph: ir.Graph, beam_width: ir.Value) -> ir.Value:
    """``[1, K, 1, 1, 1]``."""
    ones = constant(graph, "ones_3", ir.tensor(np.ones(3, np.int64)))
    one = constant(graph, "ones_1", ir.tensor(np.ones(1, np.int64)))
    width = emit(graph, "Cast", [beam_width], {"to": ir.DataType.INT64})
    return emit(graph, "Concat", [one, width, ones], {"axis": 0})


def _count_by_ids(graph: ir.Graph, ids: ir.Value) -> None:
    """Rows and tokens are counted on ``ids``, since the inputs that counted them before are going away."""
    going = {names.POSITIONS, names.KEY_MASK, names.LOGIT_INDEX}
    for value in graph.inputs:
        if value.name in going or (value.name or "").startswith("past_"):
            for use in list(value.uses()):
                if use.node.op_type == "Shape":
                    use.node.replace_input_with(0, ids)


def _rows_of_one_token(graph: ir.Graph, ids: ir.Value) -> None:
    """In lists of sizes one token is a 1, and the rows are what remains: constants instead of arithmetic."""
    for use in list(ids.uses()):
        if use.node.op_type == "Shape":
            size = -1 if use.node.attributes["start"].as_int() == 0 else 1
            known = constant(graph, f"size_{size}", ir.tensor(np.array([size], np.int64)))
            replace_uses(use.node.outputs[0], known)


def _all_true(graph: ir.Graph, ids: ir.Value) -> ir.Value:
    shape = emit(graph, "Shape", [ids])
    return emit(graph, "ConstantOfShape", [shape], {"value": ir.tensor(np.array([True]))})


def _range_of(graph: ir.Graph, ids: ir.Value) -> ir.Value:
    """Positions ``(1, T)``."""
    tokens = emit(graph, "Squeeze", [emit(graph, "Shape", [ids], {"start": 1, "end": 2})])
    zero, one = (constant(graph, f"scalar_{i}", ir.tensor(np.array(i, np.int64))) for i in (0, 1))
    return emit(graph, "Unsqueeze", [emit(graph, "Range", [zero, tokens, one]), axis_list(graph, 0)])


def _caches(graph: ir.Graph, layer: int, heads: int, width: int) -> list[ir.Value]:
    shape = ("rows", heads, "capacity", width)
    return [add_input(graph, name(layer), ir.DataType.FLOAT, shape) for name in (names.key_cache, names.value_cache)]


def _cache_outputs(graph: ir.Graph, layer: int, key: ir.Value, value: ir.Value, caches: list[ir.Value]) -> None:
    for result, name, cache in zip(
        (key, value), (names.key_cache_out(layer), names.value_cache_out(layer)), caches, strict=True
    ):
        assert cache.shape is not None
        name_output(graph, result, name, ir.DataType.FLOAT, tuple(cache.shape))  # type: ignore[arg-type]


def _input(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.inputs if value.name == name)


def _picked(graph: ir.Graph) -> ir.Node:
    return next(node for node in graph if node.op_type == "GatherElements")


def _states(graph: ir.Graph) -> ir.Value:
    states = _picked(graph).inputs[0]
    assert states is not None
    return states


def _without_past(model: ir.Model, rows: tuple[str, ...]) -> ir.Model:
    """Drop the concatenated cache from inputs and outputs, and all that only it needed; logits are ``(*rows, V)``."""
    graph = model.graph
    for value in list(graph.outputs):
        if (value.name or "").startswith("present_"):
            graph.outputs.remove(value)
    logits = next(value for value in graph.outputs if value.name == names.LOGITS)
    assert logits.shape is not None
    logits.shape = ir.Shape((*rows, logits.shape[-1]))
    model = finish(model, OPSET)
    unused = {value.name for value in graph.inputs if not value.uses()}
    drop_inputs(graph, {name for name in unused if name is not None})
    return model
