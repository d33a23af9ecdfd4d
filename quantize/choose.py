"""Which kernel carries which matrix: measured, on this machine, at the row counts the matrix will see."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from ..runtime.bundle import signature as names
from .errors import exact_enough
from .graph import VOCABULARY, matrices, readers
from .kernels import Scaling
from .products import open_products
from .scaling import scalings
from .schemes import Kernel, Scheme
from .tensors import BLOCK, kept_by_blocks

DECODER_ROWS = (1, 5, 32)  # greedy, the beams of a sentence, and a batch
ALONE_ROWS = (1,)  # a decoder alone: one text, mostly
ENCODER_ROWS = (16, 64, 256)  # the tokens of a sentence, of a few, and of a batch
_REPEATS = 7
_CALLS = 20
_WORKING_SET = 4 << 20  # bytes of float32 weights that a step walks through: one matrix alone would stay in the cache
LARGE = 128 << 20  # bytes of float32 weights that no cache holds
_MOST = 64  # matrices: of tiny ones thousands would fill that
_GAIN = 0.9  # another kernel must take at most this share of the plain one's time: less is noise


def measure(k: int, n: int, rows: int, kernels: Sequence[Kernel]) -> Mapping[Kernel, float]:
    """Median seconds of each kernel for ``rows`` rows times a ``(K, N)`` matrix, on one thread.

    As many different matrices follow one another as fill the working set of a model's step.
    """
    rng = np.random.default_rng(0)
    count = min(_MOST, -(-_WORKING_SET // (4 * k * n)))
    weights = [rng.standard_normal((n, k)).astype(np.float32) for _ in range(count)]
    x = np.random.default_rng(1).standard_normal((rows, k)).astype(np.float32)
    calls = {kernel: _bound(open_products(kernel, weights), x) for kernel in kernels}
    times: dict[Kernel, list[float]] = {kernel: [] for kernel in kernels}
    for _ in range(_REPEATS):  # interleaved, so that what disturbs one disturbs all
        for kernel, call in calls.items():
            began = time.perf_counter()
            for _ in range(_CALLS):
                call()
            times[kernel].append((time.perf_counter() - began) / _CALLS / len(weights))
    return {kernel: median(values) for kernel, values in times.items()}


Timer = Callable[[int, int, int, Sequence[Kernel]], Mapping[Kernel, float]]
"""As :func:`measure`."""


Inputs = Mapping[str, NDArray[np.float32]]
"""Rows ``(rows, K)`` that the reference gave a matrix to read, by its name."""


def choose_kernels(
    graphs: Mapping[str, ir.Model],
    scheme: Scheme,
    target: str,
    timer: Timer = measure,
    inputs: Inputs | None = None,
) -> dict[str, Kernel]:
    """Kernel by matrix name, the fastest of the scheme's for each shape; all graphs of a variant choose together.

    Where a target has one kernel there is nothing to measure. On ``inputs``, where they are given, a kernel must be
    exact enough (:func:`.errors.exact_enough`). A large network goes without ``int8-weights`` where blocks fit: a step
    that waits for memory would read the float32 they become, four times as many bytes. A matrix that came out of
    blocks, and that they keep to the bit, is carried by them.

    Large features (Dettmers et al. 2022, section 3) leave little of the others in a scale for a whole row: where
    ``int8-rows`` is not exact enough for all matrices that read a value, ``int8-scaled-rows`` stands in its place, but
    not in a decoder, whose steps have no time to scale. A network whose states are pooled to a vector has them always:
    no later choice among tokens hides the rounding. On all-MiniLM-L6-v2 and sentences of STS-B the vectors' mean cosine
    with those of float32 was 0.9973 with ``int8-rows``, 0.9992 with factors, and 0.9997 with ``int8-blocks``.
    """
    if scheme.in_order:
        return _in_order(graphs, scheme, target)
    kernels = scheme.kernels[target]
    chosen: dict[str, Kernel] = {VOCABULARY: kernels[0]}
    fits = _fits(graphs, kernels, inputs or {})
    measured: dict[tuple[int, int, bool, tuple[Kernel, ...]], Kernel] = {}
    steps = DECODER_ROWS if names.ENCODER in graphs else ALONE_ROWS
    for model in graphs.values():
        for _, name, weight in matrices(model):
            n, k = weight.shape
            decoding, fit = _decodes(name), fits[name]
            key = (n, k, decoding, fit)
            if len(fit) > 1 and key not in measured:
                measured[key] = fastest(k, n, steps if decoding else ENCODER_ROWS, fit, timer)
            chosen[name] = measured.get(key, fit[0])
    return chosen


def _fits(graphs: Mapping[str, ir.Model], kernels: Sequence[Kernel], inputs: Inputs) -> dict[str, tuple[Kernel, ...]]:
    """Those of the ``kernels`` that may carry a matrix, by its name."""
    scaled, large, pools = scalings(graphs, inputs), _is_large(graphs), any(map(_pools, graphs.values()))
    found: dict[str, tuple[Kernel, ...]] = {}
    for model in graphs.values():
        for group in readers(model):
            fits = {}
            for _, name, weight in group:
                fit = tuple(k for k in kernels if k != "int8-scaled-rows" or (name in scaled and not _decodes(name)))
                fits[name] = _candidates(fit, weight, inputs.get(name), scaled.get(name), large)
            plain = not pools and all("int8-rows" in fit for fit in fits.values())
            without = "int8-scaled-rows" if plain else "int8-rows"
            shared = any("int8-scaled-rows" in fit for fit in fits.values())
            for name, fit in fits.items():
                found[name] = tuple(k for k in fit if k != without) if shared or pools else fit
    return found


def _candidates(
    kernels: tuple[Kernel, ...],
    weight: NDArray[np.float32],
    x: NDArray[np.float32] | None,
    scaling: Scaling | None,
    large: bool,
) -> tuple[Kernel, ...]:
    """Those that may carry ``weight (N, K)``, of which ``x (rows, K)`` was recorded."""
    if len(kernels) > 1 and "int8-blocks" in kernels and kept_by_blocks(weight):
        return ("int8-blocks",)
    if len(kernels) > 1 and x is not None:
        kernels = exact_enough(kernels, weight, x, scaling)
    if large and "int8-blocks" in kernels and _divides(weight.shape[1], "int8-blocks"):
        kernels = tuple(kernel for kernel in kernels if kernel != "int8-weights")
    return kernels


def _is_large(graphs: Mapping[str, ir.Model]) -> bool:
    return sum(weight.nbytes for model in graphs.values() for _, _, weight in matrices(model)) > LARGE


def _in_order(graphs: Mapping[str, ir.Model], scheme: Scheme, target: str) -> dict[str, Kernel]:
    chosen: dict[str, Kernel] = {VOCABULARY: scheme.vocabulary[-1]}
    for model in graphs.values():
        for _, name, weight in matrices(model):
            kernels = scheme.vocabulary if name == VOCABULARY else scheme.kernels[target]
            chosen[name] = next(kernel for kernel in kernels if _divides(weight.shape[1], kernel))
    return chosen


def _divides(k: int, kernel: Kernel) -> bool:
    """Whether ``kernel`` can carry a matrix of ``k`` inputs."""
    return kernel not in ("int8-blocks", "int4-blocks") or k % BLOCK == 0


def _pools(model: ir.Model) -> bool:
    return any(value.name == names.EMBEDDING for value in model.graph.outputs)


def _decodes(name: str) -> bool:
    """Cross-attention keys and values are made with the encoder, once a sentence."""
    made_once = name.endswith(("cross_attention.key", "cross_attention.value"))
    return name == VOCABULARY or (name.startswith("decoder.") and not made_once)


def fastest(k: int, n: int, row_counts: Sequence[int], kernels: Sequence[Kernel], timer: Timer = measure) -> Kernel:
    """The kernel of least time for a ``(K, N)`` matrix, relative to the first and averaged over the row counts."""
    usable = [kernel for kernel in kernels if _divides(k, kernel)]
    relative = dict.fromkeys(usable, 0.0)
    for rows in row_counts:
        times = timer(k, n, rows, usable)
        for kernel in usable:
            relative[kernel] += float(np.log(times[kernel] / times[usable[0]])) / len(row_counts)
    best = min(usable, key=lambda kernel: relative[kernel])
    return best if relative[best] < np.log(_GAIN) else usable[0]


def _bound(session: ort.InferenceSession, x: NDArray[np.float32]) -> Callable[[], None]:
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    session.run_with_iobinding(binding)
    return lambda: session.run_with_iobinding(binding)
