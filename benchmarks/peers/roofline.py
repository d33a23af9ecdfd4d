"""How fast this machine reads and multiplies, beside which :mod:`.floors` puts what must be read and multiplied.

``python -m edgewise.benchmarks.peers.roofline read BYTES THREADS`` and ``... multiply TYPE THREADS`` measure one thing,
in a process of its own, as the number of threads is settled when NumPy is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .floors import FLOAT_BYTES, Ceilings

PASSES = 15
SIZES = tuple(2**power * 10**6 for power in (0, 2, 4, 5, 6, 7, 9))
"""Bytes, from 1 MB, which caches hold, to 512 MB, which they do not."""
SIDE = 1024
"""Rows and columns of the matrices that are multiplied."""


def ceilings(threads: int) -> Ceilings:
    """Measure all of it; about twenty seconds."""
    return Ceilings(
        threads=threads,
        bandwidth=[[size, measured("read", size, threads)] for size in SIZES],
        int8=measured("multiply", "int8", threads),
        float32=measured("multiply", "float32", threads),
    )


def read_bandwidth(size: int, threads: int) -> float:
    """Bytes a second at which arrays of ``size`` bytes together are read again and again.

    Whatever of the array the processor's caches keep between two passes is read from them, as it is in decoding.
    """
    array = np.ones(size // FLOAT_BYTES, np.float32)
    parts = np.array_split(array, threads)
    return max(_rate(reader, parts, size) for reader in (_dot, _largest))


def _dot(part: NDArray[np.float32]) -> None:
    half = len(part) // 2
    np.dot(part[:half], part[half : 2 * half])


def _largest(part: NDArray[np.float32]) -> None:
    part.max()


def _rate(reader: Callable[[NDArray[np.float32]], None], parts: list[NDArray[np.float32]], size: int) -> float:
    """The median pass. NumPy lets go of the interpreter while it reads, so threads read side by side."""
    seconds = []
    with ThreadPoolExecutor(len(parts)) as pool:
        for _ in range(PASSES):
            begin = time.perf_counter()
            list(pool.map(reader, parts))
            seconds.append(time.perf_counter() - begin)
    return size / float(np.median(seconds))


def product_rate(kind: str, threads: int) -> float:
    """Products a second of two square matrices: of float32 by NumPy's BLAS, of int8 by ONNX Runtime."""
    multiply = _int8_product(threads) if kind == "int8" else _float32_product()
    seconds = []
    for _ in range(PASSES):
        begin = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - begin)
    return SIDE**3 / float(np.median(seconds))


def _float32_product() -> Callable[[], object]:
    matrix = np.ones((SIDE, SIDE), np.float32)
    return lambda: matrix @ matrix


def _int8_product(threads: int) -> Callable[[], object]:
    """Unsigned times signed, whose kernels are the fastest; the weights are constant, so they are packed."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    shape, weights = (SIDE, SIDE), np.ones((SIDE, SIDE), np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, shape)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": np.ones(shape, np.uint8)}
    return lambda: session.run(None, feed)


def measured(what: str, of: int | str, threads: int) -> float:
    """``read`` so many bytes, or ``multiply`` such numbers, in a process of its own."""
    pool = threads if what == "multiply" else 1  # readers are threads of Python
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    command = [sys.executable, "-m", "edgewise.benchmarks.peers.roofline", what, str(of), str(threads)]
    variables = os.environ | dict.fromkeys(names, str(pool))
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, env=variables).stdout))


def main(argv: Sequence[str]) -> None:
    """Print what was measured."""
    what, of, threads = argv
    rate: Any = product_rate(of, int(threads)) if what == "multiply" else read_bandwidth(int(of), int(threads))
    print(json.dumps(rate))


if __name__ == "__main__":
    main(sys.argv[1:])
