"""Writing nodes into a graph in front of one that they replace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Emitter:
    """Emits nodes before ``anchor``, or at the end; constants are made once a name."""

    def __init__(self, graph: ir.Graph, anchor: ir.Node | None = None) -> None:
        self.graph, self.anchor = graph, anchor

    def nodes(
        self, op_type: str, inputs: Sequence[ir.Value | None], count: int, *, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """A node with ``count`` outputs; returns them."""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=count)
        if self.anchor is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.anchor, node)
        return node.outputs

    def node(self, op_type: str, inputs: Sequence[ir.Value | None], *, domain: str = "", **attributes: Any) -> ir.Value:
        """A node with one output; returns it."""
        return self.nodes(op_type, inputs, 1, domain=domain, **attributes)[0]

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initializer called ``name``."""
        if name not in self.graph.initializers:
            tensor = ir.tensor(np.ascontiguousarray(array), name=name)
            value = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
            self.graph.register_initializer(value)
        return self.graph.initializers[name]

    def ints(self, name: str, values: Sequence[int]) -> ir.Value:
        """A vector of int64."""
        return self.constant(name, np.array(values, np.int64))

    def floats(self, name: str, values: Sequence[float]) -> ir.Value:
        """A vector of float32."""
        return self.constant(name, np.array(values, np.float32))
