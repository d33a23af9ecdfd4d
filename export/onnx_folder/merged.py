"""Taking a merged decoder apart: one graph whose ``If`` chooses between the first call and every later one.

Contract: of a graph that is one ``If`` over ``use_cache_branch`` come two without control flow, which share the
weights: the branch without a past and the branch with one. A bundle holds no control flow.
Source: ``optimum/onnx/graph_transformations.py`` of optimum-onnx 0.1.0, ``merge_decoders``.
"""

from __future__ import annotations

from itertools import count

import onnx_ir as ir
import onnx_ir.passes.common as common

from ...errors import ExportError

CHOICE = "use_cache_branch"


def is_merged(model: ir.Model) -> bool:
    """Whether the graph chooses by ``use_cache_branch``."""
    return any(value.name == CHOICE for value in model.graph.inputs)


def taken_apart(model: ir.Model, where: str) -> tuple[ir.Model, ir.Model]:
    """The graph of the first call, and that of every later one.

    Raises:
        ExportError: the graph is more than one choice between two.
    """
    return _branch(model.clone(), "else_branch", where), _branch(model.clone(), "then_branch", where)


def _branch(model: ir.Model, name: str, where: str) -> ir.Model:
    graph, nodes = model.graph, list(model.graph)
    choices = [node for node in nodes if node.op_type == "If"]
    branch = choices[0].attributes[name].value if len(choices) == 1 and name in choices[0].attributes else None
    condition = choices[0].inputs[0] if choices and choices[0].inputs else None
    if not isinstance(branch, ir.Graph) or condition is None or condition.name != CHOICE:
        raise ExportError(f"{where}: expected one If that chooses by {CHOICE}, and its branches: export it again")
    (choice,) = choices
    outputs = list(branch.outputs)
    wanted = [value.name for value in choice.outputs]
    place = {id(value): i for i, value in enumerate(choice.outputs)}
    if any(id(value) not in place for value in graph.outputs) or len(outputs) != len(wanted):
        raise ExportError(f"{where}: expected the outputs of the If as those of the graph: export it again")
    taken = {value.name for node in nodes for value in node.outputs}
    taken |= {value.name for value in (*graph.inputs, *graph.initializers.values())}
    for value in list(branch.initializers.values()):
        branch.initializers.pop(value.name or "")
        _name_anew(value, taken)
        graph.register_initializer(value)
    for node in branch:
        for value in node.outputs:
            _name_anew(value, taken)
    inner = list(branch)
    chosen = [outputs[place[id(value)]] for value in graph.outputs]
    names = [value.name for value in graph.outputs]
    kinds = [(value.type, value.shape) for value in graph.outputs]
    branch.outputs.clear()
    for node in inner:
        branch.remove(node)
    graph.outputs.clear()
    for node in nodes:
        if node is choice:
            graph.remove(node, safe=True)
    graph.extend(inner)
    for value, own, (kind, shape) in zip(chosen, names, kinds, strict=True):
        if value.producer() is None:  # an input or a weight, handed through
            node = ir.node("Identity", [value])
            graph.append(node)
            (value,) = node.outputs
        value.name, value.type, value.shape = own, kind, shape
        graph.outputs.append(value)
    common.RemoveUnusedNodesPass()(model)
    for value in list(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)
    return model


def _name_anew(value: ir.Value, taken: set[str | None]) -> None:
    """Another name for what a branch calls as the graph around it calls something else."""
    if value.name in taken:
        value.name = next(name for i in count() if (name := f"{value.name}.branch{i}") not in taken)
    taken.add(value.name)
