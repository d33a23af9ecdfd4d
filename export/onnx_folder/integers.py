"""Which matrices of another exporter's graphs are multiplied in integers: what its quantizer chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from ...runtime.bundle.manifest import KernelChoice

_WEIGHT = dict.fromkeys(("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention"), 1)
_WEIGHT |= {"QLinearMatMul": 3}
"""Operators that multiply unsigned by signed bytes, and which input is the weight ``(K, N)``."""


def integer_products(graphs: Iterable[ir.Model]) -> tuple[KernelChoice, ...]:
    """Every such matrix once, as a kernel with one scale for all activations of a product."""
    found = {choice.matrix: choice for model in graphs for choice in _of_graph(model)}
    return tuple(found.values())


def _of_graph(model: ir.Model) -> Iterator[KernelChoice]:
    for node in model.graph:
        place = _WEIGHT.get(node.op_type)
        weight = node.inputs[place] if place is not None and place < len(node.inputs) else None
        tensor = weight.const_value if weight is not None else None
        if weight is not None and weight.name and tensor is not None and len(tensor.shape) == 2:
            rows, columns = tensor.shape.numpy()
            yield KernelChoice(matrix=weight.name, shape=(rows, columns), kernel="int8-tensor")
