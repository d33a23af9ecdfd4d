"""Which kernel carries which matrix, by a clock of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gguf
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgewise.quantize.choose import DECODER_ROWS, ENCODER_ROWS, choose_kernels, fastest, measure
from edgewise.quantize.schemes import SCHEMES, Kernel

Q8_0 = gguf.GGMLQuantizationType.Q8_0
ALL: tuple[Kernel, ...] = ("int8-weights", "int8-rows", "int8-blocks")


def random(n: int, k: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)


class Clock:
    """Seconds by kernel, and by kernel and rows; remembers what it was asked."""

    def __init__(self, **seconds: float | dict[int, float]) -> None:
        self.seconds = {name.replace("_", "-"): value for name, value in seconds.items()}
        self.asked: list[tuple[int, int, int, tuple[Kernel, ...]]] = []

    def __call__(self, k: int, n: int, rows: int, kernels: Sequence[Kernel]) -> Mapping[Kernel, float]:
        self.asked.append((k, n, rows, tuple(kernels)))
        found = {kernel: self.seconds[kernel] for kernel in kernels}
        return {kernel: value[rows] if isinstance(value, dict) else value for kernel, value in found.items()}


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (Clock(int8_weights=10, int8_rows=5, int8_blocks=7), "int8-rows"),
        (Clock(int8_weights=10, int8_rows=12, int8_blocks=7), "int8-blocks"),
        (Clock(int8_weights=10, int8_rows=12, int8_blocks=11), "int8-weights"),
        (Clock(int8_weights=10, int8_rows=9.5, int8_blocks=9.2), "int8-weights"),
        # twice as fast on five rows weighs as much as twice as slow on one
        (Clock(int8_weights=10, int8_rows={1: 20, 5: 5}, int8_blocks=8.9), "int8-blocks"),
        (Clock(int8_weights={1: 1, 5: 100}, int8_rows={1: 1.5, 5: 30}, int8_blocks={1: 0.8, 5: 100}), "int8-rows"),
    ],
    ids=["rows", "blocks", "plain", "less than a tenth is noise", "each count alike", "relative, not absolute"],
)
def test_the_fastest_of_a_table(clock: Clock, expected: Kernel) -> None:
    assert fastest(64, 128, (1, 5), ALL, clock) == expected
    assert [(k, n, rows) for k, n, rows, _ in clock.asked] == [(64, 128, 1), (64, 128, 5)]


@pytest.mark.parametrize("k", [16, 33, 100])
def test_blocks_want_a_multiple_of_32(k: int) -> None:
    clock = Clock(int8_weights=10, int8_rows=9.5)
    assert fastest(k, 8, (1,), ALL, clock) == "int8-weights"
    assert clock.asked == [(k, 8, 1, ("int8-weights", "int8-rows"))]


@pytest.mark.slow
def test_each_shape_is_measured_once_at_the_rows_it_will_see(portable: dict[str, ir.Model]) -> None:
    clock = Clock(int8_weights=10, int8_rows={**dict.fromkeys(DECODER_ROWS, 20), **dict.fromkeys(ENCODER_ROWS, 2)})
    clock.seconds["int8-blocks"] = 5.0
    chosen = choose_kernels(portable, SCHEMES["int8"], "cpu", clock)
    assert chosen["encoder.layers.0.feed_forward.inner"] == "int8-rows"
    assert chosen["decoder.layers.0.cross_attention.key"] == "int8-rows"  # made once a sentence, with the encoder
    assert chosen["decoder.layers.0.cross_attention.query"] == "int8-blocks"
    assert chosen["vocabulary"] == "int8-blocks"
    shapes = [(k, n, rows) for k, n, rows, _ in clock.asked]
    assert len(shapes) == len(set(shapes))
    assert {rows for k, n, rows in shapes if (k, n) == (32, 40)} == set(DECODER_ROWS)


@pytest.mark.slow
def test_a_decoder_alone_is_measured_at_one_row(portable: dict[str, ir.Model]) -> None:
    clock = Clock(int8_weights=10, int8_rows={1: 9, 5: 1, 32: 1}, int8_blocks=5)
    chosen = choose_kernels({"decoder": portable["decoder"]}, SCHEMES["int8"], "cpu", clock)
    assert chosen["decoder.layers.0.feed_forward.inner"] == "int8-blocks"
    assert {rows for _, _, rows, _ in clock.asked} == {1}


@pytest.mark.slow
def test_one_kernel_needs_no_clock(portable: dict[str, ir.Model]) -> None:
    clock = Clock()
    assert set(choose_kernels(portable, SCHEMES["int8"], "openvino", clock).values()) == {"int8-weights"}
    assert set(choose_kernels(portable, SCHEMES["fp32"], "cpu", clock).values()) == {"float32"}
    assert not clock.asked


@pytest.mark.slow
def test_four_bits_are_not_measured_and_the_vocabulary_keeps_eight(portable: dict[str, ir.Model]) -> None:
    clock = Clock()
    chosen = choose_kernels(portable, SCHEMES["int4"], "cpu", clock)
    assert chosen.pop("vocabulary") == "int8-blocks"
    assert set(chosen.values()) == {"int4-blocks"}
    assert not clock.asked


def test_what_blocks_do_not_divide_keeps_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = {"narrow": 48, "wide": 64, "vocabulary": 48}
    found = [(None, name, np.zeros((8, width))) for name, width in widths.items()]
    monkeypatch.setattr("edgewise.quantize.choose.matrices", lambda model: found)
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    chosen = choose_kernels({"decoder": model}, SCHEMES["int4"], "cpu")
    assert chosen == {"narrow": "int8-weights", "wide": "int4-blocks", "vocabulary": "int8-weights"}


@pytest.mark.parametrize(("limit", "expected"), [(1 << 30, "int8-weights"), (1, "int8-blocks")], ids=["small", "large"])
def test_a_large_network_does_not_unpack_its_weights(
    limit: int, expected: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(None, name, random(8, k)) for name, k in (("vocabulary", 64), ("narrow", 48))]
    clock = Clock(int8_weights=1, int8_rows=5, int8_blocks=4)
    monkeypatch.setattr("edgewise.quantize.choose.matrices", lambda model: found)
    monkeypatch.setattr("edgewise.quantize.choose.readers", lambda model: [[matrix] for matrix in found])
    monkeypatch.setattr("edgewise.quantize.choose.LARGE", limit)
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    chosen = choose_kernels({"decoder": model}, SCHEMES["int8"], "cpu", clock)
    assert chosen == {"vocabulary": expected, "narrow": "int8-weights"}


def test_what_came_out_of_blocks_stays_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another kernel is faster, which would round it again."""
    kept = gguf.quants.dequantize(gguf.quants.quantize(random(8, 64), Q8_0), Q8_0)
    found = [(None, "vocabulary", kept), (None, "other", random(8, 64))]
    monkeypatch.setattr("edgewise.quantize.choose.matrices", lambda model: found)
    monkeypatch.setattr("edgewise.quantize.choose.readers", lambda model: [[matrix] for matrix in found])
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    clock = Clock(int8_weights=9, int8_rows=1, int8_blocks=4)
    chosen = choose_kernels({"decoder": model}, SCHEMES["int8"], "cpu", clock)
    assert chosen == {"vocabulary": "int8-blocks", "other": "int8-rows"}


def test_the_real_clock_ticks() -> None:
    times = measure(32, 8, 2, ALL)
    assert set(times) == set(ALL)
    assert all(0 < seconds < 1 for seconds in times.values())
