"""Make a traced graph small and readable: constants folded, parameters and nodes under their PyTorch names."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer, rewriter

_PREFIX = "model."


def clean(model: ir.Model, outputs: dict[str, dict[int, str]]) -> ir.Model:
    """Clean ``model`` in place and return it; ``outputs`` names the dynamic dimensions of each output.

    Contract: the same function; no functions or Constant nodes left; parameters named as in PyTorch without the
    wrapper's prefix; ``Transpose`` of a parameter is not folded, so that the parameter keeps its name and its layout.
    """
    _name_parameters(model)
    optimizer.inline(model)
    for _ in range(2):
        optimizer.fold_constants(model, should_fold=_keep_parameters)
        rewriter.rewrite(model)
    _gather_positions(model.graph)
    _copy_dims(model.graph)
    _widen_masks(model.graph)
    _finish(model)
    _name_nodes(model.graph)
    _name_output_dims(model.graph, outputs)
    return model


def _name_parameters(model: ir.Model) -> None:
    """``model.decoder.…`` -> ``decoder.…``; the buffer ``positions`` would clash with the input of that name."""
    for value in list(model.graph.initializers.values()):
        assert value.name is not None
        name = value.name.removeprefix(_PREFIX)
        value.name = "position_table" if name == "positions" else name


def _keep_parameters(node: ir.Node) -> bool | None:
    return False if _is_parameter(node.inputs[0] if node.inputs else None) and node.op_type == "Transpose" else None


def _is_parameter(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and len(value.shape or ()) == 2


def _gather_positions(graph: ir.Graph) -> None:
    """``GatherND(table, Unsqueeze(index))`` -> ``Gather(table, index)``: what an index by one tensor means."""
    for node in list(graph):
        if node.op_type != "GatherND":
            continue
        index = node.inputs[1]
        assert index is not None
        unsqueeze = index.producer()
        if unsqueeze is None or unsqueeze.op_type != "Unsqueeze":
            continue
        gather = ir.node("Gather", [_parameter(node.inputs[0]), _without_self_expand(unsqueeze.inputs[0])], {"axis": 0})
        _replace(graph, node, gather)


def _without_self_expand(index: ir.Value | None) -> ir.Value | None:
    """``x`` for ``Expand(x, Shape(Max(x)))``: one index alone has nobody to broadcast with."""
    expand = index.producer() if index is not None else None
    return expand.inputs[0] if expand is not None and expand.op_type == "Expand" else index


def _parameter(value: ir.Value | None) -> ir.Value | None:
    """The parameter behind an identity transposition."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == "Transpose" else value


def _copy_dims(graph: ir.Graph) -> None:
    """Give a Reshape that keeps leading dimensions a constant target: 0 copies, -1 infers, the rest is static.

    Heads split and merge this way, and the arithmetic that computed their shapes at run time falls away.
    """
    for node in list(graph):
        if node.op_type != "Reshape":
            continue
        target = _copy_target(node.inputs[0], node.outputs[0])
        if target is not None:
            constant = ir.node("Constant", [], {"value_ints": target})
            reshape = ir.node("Reshape", [node.inputs[0], constant.outputs[0]])
            graph.insert_before(node, constant)
            _replace(graph, node, reshape)


def _copy_target(source: ir.Value | None, result: ir.Value) -> list[int] | None:
    if source is None or source.shape is None or result.shape is None:
        return None
    target = []
    for axis, dim in enumerate(result.shape):
        if isinstance(dim, int):
            target.append(dim)
        elif axis < len(source.shape) and source.shape[axis] == dim:
            target.append(0)
        else:
            return None
    return target


def _widen_masks(graph: ir.Graph) -> None:
    """Give a mask that is the same for every query its query dimension: ONNX Runtime does not broadcast that one."""
    wide: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        mask = node.inputs[3] if node.op_type == "Attention" and len(node.inputs) > 3 else None
        if mask is None or mask.shape is None or mask.shape[-2] != 1:
            continue
        if mask not in wide:
            wide[mask] = _repeat_for_queries(graph, node, mask)
        node.replace_input_with(3, wide[mask])


def _repeat_for_queries(graph: ir.Graph, attention: ir.Node, mask: ir.Value) -> ir.Value:
    query = attention.inputs[0]
    assert query is not None
    length = ir.node("Shape", [query], {"start": 2, "end": 3})
    one = ir.node("Constant", [], {"value_ints": [1]})
    size = ir.node("Concat", [length.outputs[0], one.outputs[0]], {"axis": 0})
    expand = ir.node("Expand", [mask, size.outputs[0]])
    graph.insert_before(attention, [length, one, size, expand])
    expand.outputs[0].dtype = ir.DataType.BOOL
    return expand.outputs[0]


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs, new.outputs)


def _finish(model: ir.Model) -> None:
    """Drop what nothing reads, share what is equal, and lift constants out of the node list."""
    for step in (
        passes.RemoveUnusedNodesPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
    ):
        step(model)


def _name_nodes(graph: ir.Graph) -> None:
    """Name the nodes that passes look for: linear layers, attentions, the embedding."""
    for node in list(graph):
        weight = _parameter(node.inputs[1]) if node.op_type == "MatMul" else node.inputs[0] if node.inputs else None
        if node.op_type == "MatMul" and _is_parameter(weight):
            _name_linear(node, weight)
        elif node.op_type == "Gather" and _is_parameter(weight):
            _name_lookup(node, weight)
        elif node.op_type == "Gemm":
            _name_dense(node)
    for node in list(graph):
        if node.op_type == "Attention":
            _name_attention(node)


def _name_dense(node: ir.Node) -> None:
    """A linear layer over one state a text."""
    weight = node.inputs[1]
    assert weight is not None and weight.name is not None
    node.name = weight.name.removesuffix(".weight")


def _name_lookup(node: ir.Node, table: ir.Value | None) -> None:
    """Of the tables that tokens look up, that of positions is no parameter with a name of its own."""
    assert table is not None and table.name is not None
    named = table.name in ("embedding.weight", "source_embedding.weight", "token_types.weight")
    if named or table.name.endswith(".relative_bias.weight"):
        node.name = table.name.removesuffix(".weight")
    else:
        node.name, table.name = "positions", "position_table"


def _name_linear(node: ir.Node, weight: ir.Value | None) -> None:
    assert weight is not None and weight.name is not None
    name = "vocabulary" if weight.name == "embedding.weight" else weight.name.removesuffix(".weight")
    node.name = name
    for consumer, _ in node.outputs[0].uses():
        if consumer.op_type == "Add" and any(v is not None and v.is_initializer() for v in consumer.inputs):
            consumer.name = f"{name}.bias"


def _name_attention(node: ir.Node) -> None:
    """After the linear layer its query comes from."""
    query = node
    while query.op_type != "MatMul":
        value = query.inputs[0]
        producer = value.producer() if value is not None else None
        assert producer is not None
        query = producer
    assert query.name is not None
    node.name = query.name.removesuffix(".query")


def _name_output_dims(graph: ir.Graph, outputs: dict[str, dict[int, str]]) -> None:
    for value in graph.outputs:
        assert value.name is not None and value.shape is not None
        dims: list[int | str] = [d if isinstance(d, int) else "?" for d in value.shape]
        for axis, name in outputs[value.name].items():
            dims[axis] = name
        value.shape = ir.Shape(dims)
