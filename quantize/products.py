"""Products with some weights as a session: to time a kernel, and to see what it makes of given rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from .emit import Emitter
from .kernels import KERNELS, Scaling
from .schemes import Kernel


def open_products(
    kernel: Kernel, weights: Sequence[NDArray[np.float32]], scaling: Scaling | None = None
) -> ort.InferenceSession:
    """``x (rows, K)`` -> ``y0, y1, … (rows, N)``: a product with each weight, opened as the runtime opens its graphs.

    Every product has an input of its own, ``x`` times a constant, so that none shares another's quantized rows.
    ``scaling`` belongs to ``int8-scaled-rows``.
    """
    n, k = weights[0].shape
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("rows", k)))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21, "com.microsoft": 1}, name="products")
    emitter = Emitter(graph)
    extra = [scaling] if kernel == "int8-scaled-rows" else []
    for i, weight in enumerate(weights):
        own = emitter.node("Mul", [x, emitter.floats(f"factor{i}", [1.0 + i])])
        y = KERNELS[kernel](emitter, own, f"weight{i}", weight, *extra)
        y.name, y.type, y.shape = f"y{i}", ir.TensorType(ir.DataType.FLOAT), ir.Shape(("rows", n))
        graph.outputs.append(y)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10)).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
