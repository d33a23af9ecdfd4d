"""The least time a decode step can take: what it must read, over how fast this machine reads it.

A step of few rows multiplies every weight with few numbers, so reading the weights bounds it. Counted are the weights
that a step multiplies, once whatever the batch, and the caches of keys and values. ``python -m
edgewise.benchmarks.peers.roofline BYTES THREADS`` measures the reading, in a process of its own as the number of BLAS
threads is settled when NumPy is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT_BYTES = 4
PASSES = 30


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """What one decode step reads."""

    weights: int
    cache: int

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.cache


def step_bytes(
    config: dict[str, Any], *, weight_bytes: int, batch: int, beams: int, source: int, new: int
) -> StepBytes:
    """Of a decoder with the ``config.json`` of a checkpoint, at the mean of its ``new`` steps.

    ``weight_bytes``: 1 for int8, 4 for float32. Scales, biases and norms, under a hundredth of the whole, are left out.
    Caches are float32: of every row the tokens decoded so far, of every sentence the ``source``.
    """
    stack = config["decoder"]
    width, layers = stack["d_model"], stack["n_layers"]
    attention, cross, feed_forward = 4 * width**2, 2 * width**2, 2 * width * stack["d_ff"]
    weights = layers * (attention + cross + feed_forward) + width * config["vocab_size"]
    a_token = 2 * layers * width * FLOAT_BYTES  # keys and values
    decoded = (new + 1) / 2
    cache = a_token * batch * (beams * decoded + source)
    return StepBytes(weights=weights * weight_bytes, cache=int(cache))


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


def measured_bandwidth(size: int, threads: int) -> float:
    """:func:`read_bandwidth`, in a process with one BLAS thread."""
    variables = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "edgewise.benchmarks.peers.roofline", str(size), str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, env=variables).stdout
    return float(json.loads(output))


def main(argv: Sequence[str]) -> None:
    """Print what was measured."""
    size, threads = map(int, argv)
    print(json.dumps(read_bandwidth(size, threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
