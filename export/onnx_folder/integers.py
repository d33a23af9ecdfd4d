"""Which matrices of another exporter's graphs are multiplied in integers: what its quantizer chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from ...errors import ExportError
from ...runtime.bundle.manifest import KernelChoice

_WEIGHT = dict.fromkeys(("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention"), 1)
_WEIGHT |= {"QLinearMatMul": 3}
"""Operators that multiply unsigned by signed bytes, and which input is the weight ``(K, N)``."""
_IN_BLOCKS = "MatMulNBits"
_ROUNDS = 4
"""The ``accuracy_level`` at which that operator rounds activations to bytes, block by block; below it leaves them."""


def integer_products(graphs: Iterable[ir.Model]) -> tuple[KernelChoice, ...]:
    """Every such matrix once: as a kernel with one scale for all activations of a product, or of few bits in blocks."""
    found = {choice.matrix: choice for model in graphs for choice in _of_graph(model)}
    return tuple(found.values())


def _of_graph(model: ir.Model) -> Iterator[KernelChoice]:
    for node in model.graph:
        packed = node.inputs[1] if node.op_type == _IN_BLOCKS and len(node.inputs) > 1 else None
        if packed is not None and packed.name:
            shape = (_said(node, "K", 0), _said(node, "N", 0))
            rounds = _said(node, "accuracy_level", 0) == _ROUNDS
            kernel = f"int{_said(node, 'bits', 4)}-{'blocks' if rounds else 'weights'}"
            yield KernelChoice(matrix=packed.name, shape=shape, kernel=kernel)
        place = _WEIGHT.get(node.op_type)
        weight = node.inputs[place] if place is not None and place < len(node.inputs) else None
        tensor = weight.const_value if weight is not None else None
        if weight is not None and weight.name and tensor is not None and len(tensor.shape) == 2:
            rows, columns = tensor.shape.numpy()
            yield KernelChoice(matrix=weight.name, shape=(rows, columns), kernel="int8-tensor")


def _said(node: ir.Node, name: str, usual: int) -> int:
    """An integer of a node of others.

    Raises:
        ExportError: it is none.
    """
    try:
        return node.attributes.get_int(name, usual)
    except TypeError as error:
        raise ExportError(
            f"a {node.op_type} has {name} of another type, expected an integer: export it again"
        ) from error
