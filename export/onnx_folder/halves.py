"""Numbers of half precision made wide: ONNX Runtime's CPU engine computes few operators in float16, and casts the rest.

Contract: every tensor, input, output and cast of float16 is of float32 afterwards. The numbers stay; what is computed
with them is computed in float32. Four-bit weights stay, their scales are wide.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_HALF, _WIDE = ir.DataType.FLOAT16, ir.DataType.FLOAT
_KINDS = ("to", "dtype")
"""Attributes that name the type of a result."""


def widened(model: ir.Model) -> bool:
    """Make ``model`` wide; whether there was anything to do."""
    found = any([_wide_values(model), _wide_attributes(model)])
    if found:
        for graph in (model.graph, *model.graph.subgraphs()):
            _without_casts(graph)
    return found


def _wide_values(model: ir.Model) -> bool:
    found = False
    for value in _values(model):
        if value.const_value is not None and value.const_value.dtype == _HALF:
            value.const_value = ir.Tensor(value.const_value.numpy().astype("float32"), name=value.name)
        if value.dtype == _HALF:
            value.dtype, found = _WIDE, True
    return found


def _wide_attributes(model: ir.Model) -> bool:
    found = False
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if isinstance(attribute.value, ir.TensorProtocol) and attribute.value.dtype == _HALF:
                tensor = ir.Tensor(attribute.value.numpy().astype("float32"), name=attribute.value.name)
                node.attributes[name], found = ir.AttrTensor(name, tensor), True
            elif name in _KINDS and attribute.type == ir.AttributeType.INT and attribute.value == _HALF:
                node.attributes[name], found = ir.AttrInt64(name, int(_WIDE)), True
    return found


def _without_casts(graph: ir.Graph | ir.GraphView) -> None:
    """Take out casts of what is wide already: behind one OpenVINO loses the name of an output."""
    if isinstance(graph, ir.GraphView):
        return
    for node in list(graph):
        source, made = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type != "Cast" or source is None or source.dtype != _WIDE or made.dtype != _WIDE:
            continue
        if made.is_graph_output():
            producer = source.producer()
            if producer is None or producer.graph is not graph or source.is_graph_output():
                continue
            places = [i for i, value in enumerate(graph.outputs) if value is made]
            made.name, source.name = f"{made.name}.cast", made.name
            for place in places:
                graph.outputs[place] = source
        made.replace_all_uses_with(source)
        graph.remove(node, safe=True)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs
