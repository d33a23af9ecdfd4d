"""Who is compared: at its fastest setting, too, and with the bits that its weights really have."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.benchmarks.peers.catalogue import systems_of
from edgewise.benchmarks.peers.generators import VOCABULARY_SHARE
from edgewise.benchmarks.peers.run import cells
from edgewise.benchmarks.peers.workloads import WORKLOADS
from edgewise.quantize.four_bits import four_bits
from edgewise.quantize.tensors import blocked

ROWS, LAYERS, WIDTH, HIDDEN, KEYS, WORDS = 8, 30, 576, 1536, 192, 49152


@pytest.mark.parametrize("workload", WORKLOADS)
def test_ctranslate2_is_measured_at_its_fastest_setting_too(workload: str) -> None:
    measured = {cell.system for cell in cells([f"{workload}/*"])}
    assert {"ctranslate2-int8", "ctranslate2-int8-avx512"} <= measured
    plain, fast = (systems_of(workload)[name] for name in ("ctranslate2-int8", "ctranslate2-int8-avx512"))
    assert (fast.model, fast.adapter, fast.files) == (plain.model, plain.adapter, plain.files)
    assert fast.variables["CT2_FORCE_CPU_ISA"] == "AVX512"


def bits_of(arrays: tuple[NDArray[np.generic] | None, ...], inputs: int) -> float:
    return 8 * sum(array.nbytes for array in arrays if array is not None) / (ROWS * inputs)


def test_our_bits_in_s3_are_those_of_what_is_stored() -> None:
    """SmolLM2-135M: matrices of 576 and 1536 inputs, in four bits but for the output projection."""
    generator = np.random.default_rng(0)
    weights = {k: generator.standard_normal((ROWS, k)).astype(np.float32) for k in (WIDTH, HIDDEN)}
    four, eight = ({k: bits_of(pack(w), k) for k, w in weights.items()} for pack in (four_bits, blocked))
    wide = LAYERS * WIDTH * (2 * WIDTH + 2 * KEYS + 2 * HIDDEN)  # weights of matrices of 576 inputs, in all layers
    deep, words = LAYERS * HIDDEN * WIDTH, WORDS * WIDTH
    mean = (wide * four[WIDTH] + deep * four[HIDDEN] + words * eight[WIDTH]) / (wide + deep + words)
    systems = systems_of("s3")
    assert systems["edgewise-int4"].bits == pytest.approx(mean, abs=0.01)
    assert systems["edgewise-int8"].bits == eight[WIDTH] == eight[HIDDEN]
    assert pytest.approx(words / (wide + deep + words), abs=1e-4) == VOCABULARY_SHARE
