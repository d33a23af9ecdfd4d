"""Factors before a row's own scale: what they are, and what the kernel that takes them computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf

from edgewise.export.quantized import ScaledLinear
from edgewise.quantize.choose import choose_kernels
from edgewise.quantize.errors import relative_error
from edgewise.quantize.graph import matrices, readers
from edgewise.quantize.kernels import Scaling
from edgewise.quantize.products import open_products
from edgewise.quantize.scaling import LEAST, factor_of, scalings
from edgewise.quantize.schemes import SCHEMES
from edgewise.quantize.tensors import per_channel

from .test_choose import Clock

Floats = NDArray[np.float32]
N, K = 48, 384


@pytest.fixture
def weight() -> Floats:
    """Small where inputs are large, as networks learn."""
    weight = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
    weight[:, 7] *= 0.01
    return weight


@pytest.fixture
def outliers() -> Floats:
    """One feature a hundred times as large as the others."""
    x = np.random.default_rng(1).standard_normal((40, K)).astype(np.float32)
    x[:, 7] *= 100
    return x


@pytest.fixture
def above() -> Floats:
    """What a Gelu gives: little below zero, and much above."""
    x = 3 * np.random.default_rng(2).standard_normal((40, K))
    return (0.5 * x * (1 + erf(x / np.sqrt(2)))).astype(np.float32)


def test_factors_are_those_of_the_paper() -> None:
    """Xiao et al. 2023, equation 4, by hand; relative to their geometric mean."""
    x, weights = np.array([[1, -16.0], [0.5, 4]], np.float32), [np.array([[4, -1.0]], np.float32)]
    halves = np.array([np.sqrt(4 / 1), np.sqrt(1 / 16)])
    np.testing.assert_allclose(factor_of(x, weights), halves / np.sqrt(halves.prod()), rtol=1e-6)


def test_the_largest_of_all_weights_counts() -> None:
    x = np.ones((1, 2), np.float32)
    one, other = np.array([[4, 1.0]], np.float32), np.array([[0.1, 9.0]], np.float32)
    np.testing.assert_allclose(factor_of(x, [one, other]), factor_of(x, [np.array([[4, 9.0]], np.float32)]))


@pytest.mark.parametrize("zero", ["inputs", "weights", "both"])
def test_zeros_have_a_factor(zero: str) -> None:
    x, weight = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    if zero != "weights":
        x[:, 1] = 0
    if zero != "inputs":
        weight[:, 1] = 0
    factor = factor_of(x, [weight])
    assert np.isfinite(factor).all()
    assert (factor > 0).all()


def test_no_gelu_is_below_its_least_value() -> None:
    x = np.linspace(-20, 20, 400_001)
    least = (0.5 * x * (1 + erf(x / np.sqrt(2)))).min()
    assert LEAST["Gelu"] < least < LEAST["Gelu"] + 1e-4


def by_hand(x: Floats, weight: Floats, scaling: Scaling) -> NDArray[np.float64]:
    least, factor = scaling.least or 0.0, scaling.factor
    inner = (x - np.float32(least)) * factor
    values, scale = per_channel(weight / factor)
    top = 127 if scaling.least is None else 255
    step = np.abs(inner).max(axis=1, keepdims=True) / np.float32(top)
    product = np.rint(inner / step).astype(np.float64) @ values.T.astype(np.float64) * step * scale.T
    carried: NDArray[np.float64] = product + least * (values * scale * factor).sum(axis=1)
    return carried


@pytest.mark.parametrize("least", [None, 0.0, -0.17])
def test_the_product_is_what_its_integers_give(least: float | None, weight: Floats, outliers: Floats) -> None:
    x = outliers if least is None else np.abs(outliers) + np.float32(least)
    scaling = Scaling("reader", factor_of(x, [weight], least), least)
    expected = by_hand(x, weight, scaling)
    (found,) = open_products("int8-scaled-rows", [weight], scaling).run(None, {"x": x})
    span = np.abs(expected).max()
    assert np.abs(found - expected).max() < 1e-3 * span  # a rounding may go the other way
    assert np.median(np.abs(found - expected)) < 1e-6 * span
    bias = torch.randn(N)
    reference = ScaledLinear(torch.from_numpy(weight), bias, scaling)(torch.from_numpy(x)) - bias
    assert np.abs(reference.numpy() - expected).max() < 1e-3 * span


def test_outliers_cost_little_with_factors(weight: Floats, outliers: Floats) -> None:
    scaling = Scaling("reader", factor_of(outliers, [weight]), None)
    plain = relative_error("int8-rows", weight, outliers)
    assert relative_error("int8-scaled-rows", weight, outliers, scaling) < plain / 3


def test_levels_are_for_what_is_above_the_least(weight: Floats, above: Floats) -> None:
    """A little more than half of the error that the rounding of inputs adds to that of weights."""
    weights, added = relative_error("int8-weights", weight, above), []
    for least in (None, LEAST["Gelu"]):
        scaling = Scaling("reader", np.ones(K, np.float32), least)
        added.append(relative_error("int8-scaled-rows", weight, above, scaling) ** 2 - weights**2)
    assert np.sqrt(added[1]) < 0.6 * np.sqrt(added[0])


def test_rows_of_the_least_value_have_no_scale(weight: Floats) -> None:
    for least in (None, 0.0, -0.17):
        x = np.full((2, K), least or 0.0, np.float32)
        (found,) = open_products("int8-scaled-rows", [weight], Scaling("r", np.ones(K, np.float32), least)).run(
            None, {"x": x}
        )
        values, scale = per_channel(weight)
        np.testing.assert_allclose(found, x @ (values * scale).T, rtol=1e-4, atol=1e-4)


# --- in a graph -------------------------------------------------------------------------------------------------------


def rows_of(portable: dict[str, ir.Model]) -> dict[str, Floats]:
    rng = np.random.default_rng(3)
    return {
        name: rng.standard_normal((20, weight.shape[1])).astype(np.float32)
        for model in portable.values()
        for _, name, weight in matrices(model)
    }


@pytest.mark.slow
def test_matrices_that_read_the_same_share_their_factors(portable: dict[str, ir.Model]) -> None:
    found = scalings(portable, rows_of(portable))
    (group,) = [g for g in readers(portable["encoder"]) if "encoder.layers.0.attention.query" in [n for _, n, _ in g]]
    assert {name.rpartition(".")[2] for _, name, _ in group} == {"query", "key", "value"}
    first = found[group[0][1]]
    assert all(found[name] is first for _, name, _ in group)
    assert first.least is None
    assert found["encoder.layers.0.feed_forward.outer"].least == 0  # behind a ReLU


@pytest.mark.slow
def test_an_encoder_has_them_where_plain_rows_are_not_exact_enough(
    portable: dict[str, ir.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = rows_of(portable)
    loud = "encoder.layers.0.attention.value"
    for part in ("query", "key", "value"):
        inputs[f"encoder.layers.0.attention.{part}"][:, 0] = 9000

    def exact(kernels: tuple[str, ...], weight: Floats, x: Floats, scaling: Scaling | None) -> tuple[str, ...]:
        return tuple(k for k in kernels if k != "int8-rows" or x.max() < 9000)

    monkeypatch.setattr("edgewise.quantize.choose.exact_enough", exact)
    clock = Clock(int8_weights=10, int8_rows=1, int8_scaled_rows=2, int8_blocks=10)
    chosen = choose_kernels(portable, SCHEMES["int8"], "cpu", clock, inputs)
    assert chosen[loud] == chosen["encoder.layers.0.attention.query"] == "int8-scaled-rows"
    assert chosen["encoder.layers.0.feed_forward.inner"] == "int8-rows"
    assert not [n for n, k in chosen.items() if k == "int8-scaled-rows" and n.startswith("decoder.layers.0.feed")]


@pytest.mark.slow
def test_without_recorded_inputs_there_are_none(portable: dict[str, ir.Model]) -> None:
    clock = Clock(int8_weights=10, int8_rows=5, int8_scaled_rows=1, int8_blocks=10)
    assert "int8-scaled-rows" not in choose_kernels(portable, SCHEMES["int8"], "cpu", clock).values()
