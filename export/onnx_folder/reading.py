"""Reading a graph of another exporter: as untrusted input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from ...errors import CheckpointError
from ..weights import SMALLEST

_MOST_BYTES = 2**31
"""What protobuf can hold."""


def read_graph(file: Path) -> ir.Model:
    """The graph in a file; weights in other files stay there, and lie beside it.

    Raises:
        CheckpointError: too large, damaged, no graph, or with weights elsewhere.
    """
    if (size := file.stat().st_size) > _MOST_BYTES:
        raise CheckpointError(f"{file} has {size} bytes, expected at most {_MOST_BYTES}, as protobuf has")
    try:
        model = ir.load(file)
    except Exception as error:  # the libraries below raise what they like
        raise CheckpointError(f"{file}: expected an ONNX graph, got {str(error)[:200]}: export it again") from error
    for name, tensor in _external(model):
        place = Path(str(tensor.location))
        beside = file.parent / place.name
        if place.name != str(tensor.location) or not _is_file(beside):
            raise CheckpointError(
                f"{file}: the weights {name!r} lie in {str(tensor.location)!r}, expected a file beside the graph"
            )
        ends, has = (tensor.offset or 0) + (tensor.length or 0), beside.stat().st_size
        if ends > has or (tensor.offset or 0) < 0:
            raise CheckpointError(f"{file}: {name!r} ends at {ends} of {beside.name}, which has {has} bytes: copy it")
    try:
        _take_in_small(model)
        for graph in (model.graph, *model.graph.subgraphs()):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    value.const_value.numpy()  # a view, which a damaged tensor does not have
        model.graph.sort()  # converters to float16 put casts behind their readers
        model.clone()  # nor has a graph that is not in order a copy
    except Exception as error:  # the libraries below raise what they like
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{file}: expected a whole ONNX graph, got {reason}: export it again") from error
    return model


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # a name that no file can have
        return False


def _take_in_small(model: ir.Model) -> None:
    """What is smaller than a bundle's file of weights takes goes into the graph."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes < SMALLEST:
                value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _external(model: ir.Model) -> Iterator[tuple[str | None, ir.ExternalTensor]]:
    """Tensors in other files, wherever they are named."""
    graphs: list[ir.Graph | ir.GraphView] = [model.graph, *model.graph.subgraphs()]
    for graph in graphs:
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.name, value.const_value
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if isinstance(attribute.value, ir.ExternalTensor):
                yield node.name, attribute.value
