"""Log-probabilities are PyTorch's in float64, also where logits are minus infinity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.runtime.softmax import log_softmax


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)], ids=str)
def test_over_the_last_axis(shape: tuple[int, ...]) -> None:
    logits = (100 * np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    logits[..., 2] = -np.inf
    before = logits.copy()
    found = log_softmax(logits)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, torch.from_numpy(logits).double().log_softmax(-1).numpy(), rtol=1e-13)
    np.testing.assert_array_equal(logits, before)


def test_minus_infinity_stays_where_it_is_all_there_is() -> None:
    found = log_softmax(np.array([[-np.inf, -np.inf], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(found, [[-np.inf, -np.inf], [-np.log(2), -np.log(2)]])


def test_nan_stays() -> None:
    assert np.isnan(log_softmax(np.array([0.0, np.nan], np.float32))).all()
