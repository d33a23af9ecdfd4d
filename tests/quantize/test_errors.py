"""How far off kernels are on given rows, beside the rounding written out; which of them may carry a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgewise.quantize.choose import choose_kernels
from edgewise.quantize.errors import exact_enough, relative_error
from edgewise.quantize.kernels import Scaling
from edgewise.quantize.schemes import SCHEMES, Kernel

ALL: tuple[Kernel, ...] = ("int8-weights", "int8-rows", "int8-blocks")
Floats = NDArray[np.float32]


def rounded(x: Floats, size: int, levels: int = 127) -> Floats:
    """Every ``size`` neighbours to ``levels`` on each side of zero."""
    parts = x.reshape(len(x), -1, size)
    scale = np.abs(parts).max(axis=2, keepdims=True) / levels
    return (np.rint(parts / scale) * scale).reshape(x.shape)


def in_best_blocks(weight: Floats) -> Floats:
    """The nearest of 64 roundings of each block."""
    tried = np.array([rounded(weight, 32, levels) for levels in range(64, 128)]).reshape(64, -1, 32)
    nearest = np.square(tried - weight.reshape(-1, 32)).sum(axis=2).argmin(axis=0)
    return np.array([tried[best, i] for i, best in enumerate(nearest)]).reshape(weight.shape)


@pytest.fixture
def weight() -> Floats:
    return np.random.default_rng(0).standard_normal((48, 384)).astype(np.float32)


@pytest.fixture
def calm() -> Floats:
    return np.random.default_rng(1).standard_normal((40, 384)).astype(np.float32)


@pytest.fixture
def outliers(calm: Floats) -> Floats:
    """One feature a hundred times as large as the others."""
    x = calm.copy()
    x[:, 7] *= 100
    return x


@pytest.mark.parametrize(("kernel", "size"), [("int8-rows", 384), ("int8-blocks", 32), ("int8-weights", None)])
@pytest.mark.parametrize("rows", ["calm", "outliers"])
def test_the_error_is_that_of_the_rounding_written_out(
    kernel: Kernel, size: int | None, rows: str, weight: Floats, request: pytest.FixtureRequest
) -> None:
    x = request.getfixturevalue(rows)
    exact = x.astype(np.float64) @ weight.T
    levels = (in_best_blocks(weight) if kernel == "int8-blocks" else rounded(weight, 384)).astype(np.float64)
    found = (x if size is None else rounded(x, size)) @ levels.T
    expected = np.sqrt(np.mean([(((f - e) ** 2).sum() / (e**2).sum()) for f, e in zip(found, exact, strict=True)]))
    assert relative_error(kernel, weight, x) == pytest.approx(expected, rel=0.02)


def test_rows_of_zeros_have_no_error(weight: Floats, calm: Floats) -> None:
    some = np.concatenate([calm, np.zeros_like(calm)])
    assert relative_error("int8-rows", weight, some) == pytest.approx(relative_error("int8-rows", weight, calm))
    assert relative_error("int8-rows", weight, np.zeros_like(calm)) == 0


def test_outliers_rule_out_a_scale_for_a_whole_row(weight: Floats, calm: Floats, outliers: Floats) -> None:
    small = weight.copy()
    small[:, 7] *= 0.01  # as networks learn: what is large on purpose is read with small weights
    assert exact_enough(ALL, small, calm) == ALL
    assert exact_enough(ALL, small, outliers) == ("int8-weights", "int8-blocks")


def test_where_blocks_do_not_fit_all_kernels_may(weight: Floats, outliers: Floats) -> None:
    assert exact_enough(ALL, weight[:, :50], outliers[:, :50]) == ALL
    assert exact_enough(("int8-weights", "int8-rows"), weight, outliers) == ("int8-weights", "int8-rows")


@pytest.mark.slow
def test_the_choice_follows_it(portable: dict[str, ir.Model], monkeypatch: pytest.MonkeyPatch) -> None:
    def rows_are_fastest(k: int, n: int, rows: int, kernels: Sequence[Kernel]) -> Mapping[Kernel, float]:
        return {kernel: {"int8-rows": 1.0, "int8-blocks": 2.0}.get(kernel, 3.0) for kernel in kernels}

    calm = np.ones((20, 32), np.float32)
    inputs = {"decoder.layers.0.attention.query": 9 * calm, "decoder.layers.0.attention.key": calm}

    def exact(kernels: Sequence[Kernel], weight: Floats, x: Floats, scaling: Scaling | None) -> tuple[Kernel, ...]:
        return tuple(k for k in kernels if k != "int8-rows" or x.max() < 9)

    monkeypatch.setattr("edgewise.quantize.choose.exact_enough", exact)
    chosen = choose_kernels(portable, SCHEMES["int8"], "cpu", rows_are_fastest, inputs)
    assert chosen["decoder.layers.0.attention.query"] == "int8-blocks"
    assert chosen["decoder.layers.0.attention.key"] == "int8-rows", "of the same shape, and calm"
    assert chosen["decoder.layers.0.attention.value"] == "int8-rows", "nothing was recorded of it"
