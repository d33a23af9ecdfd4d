"""Which kernel carries which matrix: measured, on this machine, at the row counts the matrix will see."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from .emit import Emitter
from .graph import VOCABULARY, matrices
from .kernels import KERNELS
from .schemes import Kernel, Scheme

DECODER_ROWS = (1, 5)  # greedy, and the beams of a sentence
ENCODER_ROWS = (16, 64)  # the tokens of a sentence, and of a few
_REPEATS = 7
_GAIN = 0.9  # another kernel must take at most this share of the plain one's time: less is noise


def choose_kernels(graphs: Mapping[str, ir.Model], scheme: Scheme, target: str) -> dict[str, Kernel]:
    """Kernel by matrix name, the fastest of the scheme's for each shape; all graphs of a variant choose together.

    Where a target has one kernel there is nothing to measure. Times are of one thread.
    """
    kernels = scheme.kernels[target]
    chosen: dict[str, Kernel] = {VOCABULARY: kernels[0]}
    measured: dict[tuple[int, int, bool], Kernel] = {}
    for model in graphs.values():
        for _, name, weight in matrices(model):
            n, k = weight.shape
            decoding = _decodes(name)
            key = (n, k, decoding)
            if len(kernels) > 1 and key not in measured:
                measured[key] = fastest(k, n, DECODER_ROWS if decoding else ENCODER_ROWS, kernels)
            chosen[name] = measured.get(key, kernels[0])
    return chosen


def _decodes(name: str) -> bool:
    """Cross-attention keys and values are made with the encoder, once a sentence."""
    made_once = name.endswith(("cross_attention.key", "cross_attention.value"))
    return name == VOCABULARY or (name.startswith("decoder.") and not made_once)


def fastest(k: int, n: int, row_counts: Sequence[int], kernels: Sequence[Kernel]) -> Kernel:
    """The kernel of least time for a ``(K, N)`` matrix, relative to the first and averaged over the row counts."""
    usable = [kernel for kernel in kernels if kernel != "int8-blocks" or k % 32 == 0]
    weight = np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)
    runs = {kernel: _session(kernel, weight) for kernel in usable}
    relative = dict.fromkeys(usable, 0.0)
    for rows in row_counts:
        times = _times(runs, np.random.default_rng(1).standard_normal((rows, k)).astype(np.float32))
        for kernel in usable:
            relative[kernel] += float(np.log(times[kernel] / times[usable[0]])) / len(row_counts)
    best = min(usable, key=lambda kernel: relative[kernel])
    return best if relative[best] < np.log(_GAIN) else usable[0]


def _times(runs: Mapping[Kernel, ort.InferenceSession], x: NDArray[np.float32]) -> dict[Kernel, float]:
    """Median seconds of each kernel, interleaved."""
    calls = {kernel: _bound(session, x) for kernel, session in runs.items()}
    times: dict[Kernel, list[float]] = {kernel: [] for kernel in runs}
    for _ in range(_REPEATS):
        for kernel, call in calls.items():
            began = time.perf_counter()
            for _ in range(20):
                call()
            times[kernel].append((time.perf_counter() - began) / 20)
    return {kernel: median(values) for kernel, values in times.items()}


def _bound(session: ort.InferenceSession, x: NDArray[np.float32]) -> Callable[[], None]:
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    return lambda: session.run_with_iobinding(binding)


def _session(kernel: Kernel, weight: NDArray[np.float32]) -> ort.InferenceSession:
    """A graph of one product, opened as the runtime opens its own."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("rows", weight.shape[1])))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21, "com.microsoft": 1}, name="product")
    y = KERNELS[kernel](Emitter(graph), x, "weight", weight)
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(("rows", len(weight)))
    graph.outputs.append(y)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10)).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
