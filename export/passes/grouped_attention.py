"""One token after a cache, in the one kernel of ONNX Runtime's that shares keys, knows windows and caps scores.

Contract: a portable ``Attention`` over ``Concat(past, new)`` becomes one ``GroupQueryAttention`` that turns queries and
keys itself, where positions are rotary, and writes into the buffers that come in as ``key_cache_i`` and go out as
``key_cache_i_out``. It knows no beams: whoever reorders rows reorders the buffers, so where one attention of a graph
needs this kernel, all of them get it. The kernel wants heads whose width is a multiple of 8, of 16 to turn them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import ExportError
from ...runtime.bundle import signature as names
from .patterns import CONTRIB, before_heads, cap_of, constant, producer, scale_of, self_attentions, unturned, window_of

WIDTH_UNIT, TURNED_WIDTH_UNIT = 8, 16


def needs_grouped(graph: ir.Graph) -> bool:
    """Whether no other kernel has what a self-attention of a decoder asks for."""
    return any(
        is_grouped(node) or window_of(node) is not None or cap_of(node) is not None
        for _, node in self_attentions(graph)
    )


def is_grouped(node: ir.Node) -> bool:
    """Whether several query heads of an ``Attention`` read the same keys."""
    query, key = (value.shape for value in node.inputs[:2] if value is not None)
    assert query is not None and key is not None
    return int(query[1]) != int(key[1])  # type: ignore[arg-type]


def grouped_attention(graph: ir.Graph, node: ir.Node, past_length: ir.Value, caches: list[ir.Value]) -> ir.Node:
    """The fused node in place of ``node``: its outputs are ``(R, 1, D)`` and both buffers.

    Raises:
        ExportError: the heads have a width that the kernel does not take.
    """
    fresh = [node.inputs[0], *(producer(source, "Concat").inputs[1] for source in node.inputs[1:3])]
    (query, rotary), (key, _), (value, _) = map(unturned, fresh)
    heads, width = (int(node.inputs[0].shape[i]) for i in (1, 3))  # type: ignore[union-attr,index,arg-type]
    kv_heads = int(node.inputs[1].shape[1])  # type: ignore[union-attr,index,arg-type]
    unit = WIDTH_UNIT if rotary is None else TURNED_WIDTH_UNIT
    if width % unit:
        raise ExportError(
            f"{node.name}: {heads} heads of width {width} over {kv_heads} of keys and values, "
            f"{'with' if rotary else 'without'} rotary positions; expected a width that is a multiple of {unit}: "
            "export it for openvino only"
        )
    lengths, total = _lengths(graph, past_length)
    tables = rotary.inputs[1:3] if rotary is not None else ()
    attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": kv_heads, "do_rotary": int(rotary is not None)}
    if (window := window_of(node)) is not None:
        attributes["local_window_size"] = window
    if (cap := cap_of(node)) is not None:
        attributes["softcap"] = cap
    fused = ir.node(
        "GroupQueryAttention",
        [*map(before_heads, (query, key, value)), *caches, lengths, total, *tables],
        attributes | scale_of(node),
        domain=CONTRIB,
        num_outputs=3,
        name=node.name,
    )
    graph.insert_before(node, fused)
    return fused


def _lengths(graph: ir.Graph, past_length: ir.Value) -> tuple[ir.Value, ir.Value]:
    """What the kernel is told, int32: the keys of every row less one ``(R,)``, and those of the longest ``(1,)``."""
    ids = next(value for value in graph.inputs if value.name == names.IDS)
    rows = ir.node("Shape", [ids], {"start": 0, "end": 1})
    lengths = ir.node("Expand", [past_length, rows.outputs[0]])
    one = constant(graph, "one_int32", ir.tensor(np.ones(1, np.int32)))
    total = ir.node("Add", [past_length, one])
    graph.insert_before(graph[0], [rows, lengths, total])
    return lengths.outputs[0], total.outputs[0]
