"""Finding one's way in a portable graph: the patterns that ``export.portable`` promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from ...errors import ExportError

CONTRIB = "com.microsoft"


def copy_of(model: ir.Model) -> ir.Model:
    """A model that can be rewritten without touching ``model``; tensors are shared."""
    return model.clone()


def producer(value: ir.Value | None, *op_types: str) -> ir.Node:
    """The node that makes ``value``, which must be one of ``op_types``."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in op_types:
        found = node.op_type if node is not None else "none"
        name = value.name if value is not None else "?"
        raise ExportError(f"{name}: expected a {' or '.join(op_types)} node before it, found {found}")
    return node


def only_use(value: ir.Value, *op_types: str) -> ir.Node:
    """The one node that reads ``value``."""
    nodes = [use.node for use in value.uses()]
    if len(nodes) != 1 or nodes[0].op_type not in op_types:
        found = [node.op_type for node in nodes]
        raise ExportError(f"{value.name}: expected one {' or '.join(op_types)} node after it, found {found}")
    return nodes[0]


def made_by(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """The node that makes the first input of ``node``, if it is an ``op_type``."""
    value = node.inputs[0] if node is not None and node.inputs else None
    before = value.producer() if value is not None else None
    return before if before is not None and before.op_type == op_type else None


def only_reader(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """The one node that reads the result of ``node``, as its first input, if it is an ``op_type``."""
    uses = list(node.outputs[0].uses()) if node is not None else []
    return uses[0].node if len(uses) == 1 and uses[0].idx == 0 and uses[0].node.op_type == op_type else None


def is_constant(value: ir.Value | None) -> bool:
    """Made of initializers alone."""
    if value is None or value.is_graph_input():
        return value is None
    node = value.producer()
    return value.is_initializer() if node is None else all(is_constant(source) for source in node.inputs)


def self_attentions(graph: ir.Graph) -> Iterator[tuple[int, ir.Node]]:
    """Layer and node of every decoder self-attention."""
    return _attentions(graph, ".attention")


def cross_attentions(graph: ir.Graph) -> Iterator[tuple[int, ir.Node]]:
    """Layer and node of every cross-attention."""
    return _attentions(graph, ".cross_attention")


def _attentions(graph: ir.Graph, suffix: str) -> Iterator[tuple[int, ir.Node]]:
    for node in list(graph):
        if node.op_type == "Attention" and (node.name or "").startswith("decoder.layers."):
            _, _, layer, kind = (node.name or "").split(".", 3)
            if kind == suffix[1:]:
                yield int(layer), node


def before_heads(value: ir.Value | None) -> ir.Value:
    """``(B, T, H*Dh)`` of what a Reshape and a Transpose split into ``(B, H, T, Dh)``; normed heads are merged."""
    transpose = producer(value, "Transpose")
    split = producer(transpose.inputs[0], "Reshape", "RMSNormalization")
    if split.op_type == "RMSNormalization":
        graph = transpose.graph
        assert isinstance(graph, ir.Graph)
        shape = constant(graph, "merged_heads", ir.tensor(np.array([0, 0, -1], np.int64)))
        merge = ir.node("Reshape", [split.outputs[0], shape])
        graph.insert_before(transpose, merge)
        return merge.outputs[0]
    merged = split.inputs[0]
    assert merged is not None
    return merged


def unturned(value: ir.Value | None) -> tuple[ir.Value, ir.Node | None]:
    """Queries or keys before rotary positions turned them, and the node that did; the value itself without one."""
    node = value.producer() if value is not None else None
    rotary = node if node is not None and node.op_type == "RotaryEmbedding" else None
    before = rotary.inputs[0] if rotary is not None else value
    assert before is not None
    return before, rotary


def after_heads(node: ir.Node) -> ir.Value:
    """``(B, T, D)`` of an attention's result once a Transpose and a Reshape merged its heads."""
    transpose = only_use(node.outputs[0], "Transpose")
    return only_use(transpose.outputs[0], "Reshape").outputs[0]


def scale_of(node: ir.Node) -> dict[str, ir.Attr]:
    """The scale of an attention, where it has one of its own, among the attributes of a kernel that takes its place."""
    return {"scale": node.attributes["scale"]} if "scale" in node.attributes else {}


def shift_of(norm: ir.Node) -> ir.Value | None:
    """What a ``LayerNormalization`` adds at last, if anything."""
    return norm.inputs[2] if len(norm.inputs) > 2 else None


def has_bias(value: ir.Value) -> bool:
    """Whether ``value`` is a product plus a bias that is stored."""
    add = value.producer()
    bias = add.inputs[1] if add is not None and add.op_type == "Add" else None
    return bias is not None and bias.const_value is not None


def without_bias(value: ir.Value) -> tuple[ir.Value, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The product and the bias of a linear layer: ONNX Runtime's attention kernels add biases themselves."""
    add = producer(value, "Add")
    product, bias = add.inputs
    assert product is not None and bias is not None and bias.const_value is not None
    return product, bias.const_value.numpy()


def cap_of(node: ir.Node) -> float | None:
    """What the scores of an ``Attention`` stay below; ``None``: nothing, which PyTorch writes as a cap of 0."""
    return node.attributes["softcap"].as_float() or None if "softcap" in node.attributes else None


def window_of(node: ir.Node) -> int | None:
    """How many keys a query of an ``Attention`` sees, which the last part of its mask says; ``None``: all before it."""
    mask = node.inputs[3].producer() if node.inputs[3] is not None else None
    last = mask.inputs[-1] if mask is not None and mask.op_type == "And" else None
    near = last.producer() if last is not None else None
    size = near.inputs[1] if near is not None and near.op_type == "Less" else None
    return None if size is None or size.const_value is None else int(size.const_value.numpy())


def replace_uses(old: ir.Value, new: ir.Value) -> None:
    """Everything that read ``old`` reads ``new``."""
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)


def hand_over_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Where ``old`` is an output of the graph, ``new`` is it from now on, under the same name."""
    for i, value in enumerate(graph.outputs):
        if value is old:
            name, new.type, new.shape = old.name, old.type, old.shape
            old.name = None
            new.name = name
            graph.outputs[i] = new


def add_input(graph: ir.Graph, name: str, dtype: ir.DataType, shape: tuple[int | str, ...]) -> ir.Value:
    """A new graph input."""
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    graph.inputs.append(value)
    return value


def name_output(graph: ir.Graph, value: ir.Value, name: str, dtype: ir.DataType, shape: tuple[int | str, ...]) -> None:
    """``value`` as a graph output."""
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    graph.outputs.append(value)


def constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """An initializer, made once a name."""
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def axis_list(graph: ir.Graph, axis: int) -> ir.Value:
    """A list of one axis."""
    return constant(graph, f"axis_{axis}", ir.tensor(np.array([axis], np.int64)))


def the_rest(graph: ir.Graph) -> ir.Value:
    """A list of -1: the length that a Reshape finds out by itself."""
    return constant(graph, "minus_one", ir.tensor(np.array([-1], np.int64)))


def emit(
    graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any] | None = None
) -> ir.Value:
    """The output of a new node at the end of ``graph``."""
    node = ir.node(op_type, inputs, attributes or {})
    graph.append(node)
    return node.outputs[0]


def drop_inputs(graph: ir.Graph, names: set[str]) -> None:
    """Forget inputs that nothing reads any more."""
    for value in list(graph.inputs):
        if value.name in names:
            if value.uses():
                raise ExportError(f"input {value.name} is still read by {[u.node.op_type for u in value.uses()]}")
            graph.inputs.remove(value)


def finish(model: ir.Model, opset: int) -> ir.Model:
    """Drop what nothing reads, order the nodes, and declare the operator sets in use."""
    for step in (
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.TopologicalSortPass(),
        common.NameFixPass(),
    ):
        step(model)
    _forget_shapes(model.graph)
    model.graph.opset_imports[""] = opset
    if any(node.domain == CONTRIB for node in model.graph):
        model.graph.opset_imports[CONTRIB] = 1
    return model


def _forget_shapes(graph: ir.Graph) -> None:
    """Shapes inside the graph were the portable form's; the engine infers its own."""
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        for value in node.outputs:
            if id(value) not in kept:
                value.shape, value.type = None, None
