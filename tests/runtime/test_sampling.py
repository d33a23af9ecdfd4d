"""Draws by hand, and their frequencies; the filters are compared with Hugging Face's in ``test_huggingface.py``."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.runtime.options import Sampling
from edgewise.runtime.sampling import draw, filtered, uniforms

PROBABILITIES = np.array([0.125, 0.5, 0.0, 0.25, 0.125])
with np.errstate(divide="ignore"):
    LOG_PROBS = np.log(PROBABILITIES)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.125, 0.5, 0, 0.25, 0.125]),
        (Sampling(temperature=0.5), np.array([1, 16, 0, 4, 1]) / 22),
        (Sampling(top_k=2), np.array([0, 2, 0, 1, 0]) / 3),
        (Sampling(top_k=3), [0.125, 0.5, 0, 0.25, 0.125]),
        (Sampling(top_k=9), [0.125, 0.5, 0, 0.25, 0.125]),
        (Sampling(top_p=0.5), [0, 1, 0, 0, 0]),
        (Sampling(top_p=0.51), np.array([0, 2, 0, 1, 0]) / 3),
        (Sampling(top_p=0.8), np.array([1, 4, 0, 2, 0]) / 7),
        (Sampling(top_p=1.0), [0.125, 0.5, 0, 0.25, 0.125]),
        (Sampling(min_p=0.5), np.array([0, 2, 0, 1, 0]) / 3),
        (Sampling(min_p=0.51), [0, 1, 0, 0, 0]),
        # Surprises are 3, 1, -, 2, 3 bits and the entropy 1.75: 2 is nearest, then 1.
        (Sampling(typical_p=0.2), [0, 0, 0, 1, 0]),
        (Sampling(typical_p=0.3), np.array([0, 2, 0, 1, 0]) / 3),
        (Sampling(top_k=2, top_p=0.6), [0, 1, 0, 0, 0]),
    ],
    ids=str,
)
def test_filters_by_hand(sampling: Sampling, expected: list[float]) -> None:
    np.testing.assert_allclose(filtered(LOG_PROBS, sampling), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.124, 0), (0.126, 1), (0.624, 1), (0.626, 3), (0.876, 4), (1 - 2**-53, 4)]
)
def test_a_number_falls_on_a_token(uniform: float, token: int) -> None:
    assert draw(LOG_PROBS, Sampling(), uniform) == token


def test_what_cannot_be_drawn_never_is() -> None:
    never = np.array([-np.inf, 0.0, -np.inf])
    assert {draw(never, Sampling(temperature=3.0), u) for u in (0.0, 0.5, 1 - 2**-53)} == {1}


def test_next_to_the_temperature_zero_the_most_probable_is_drawn() -> None:
    assert {draw(LOG_PROBS, Sampling(temperature=1e-308), u) for u in (0.0, 0.5, 1 - 2**-53)} == {1}


def test_frequencies_are_the_probabilities() -> None:
    (generator,) = uniforms(Sampling(seed=3))
    count = 20_000
    drawn = np.bincount([draw(LOG_PROBS, Sampling(), generator()) for _ in range(count)], minlength=5) / count
    spread = np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / count)
    assert (np.abs(drawn - PROBABILITIES) <= 4 * spread).all()
    assert drawn[2] == 0


def test_a_sample_draws_the_same_numbers_whatever_there_is_beside_it() -> None:
    one, three = uniforms(Sampling(seed=5, samples=1)), uniforms(Sampling(seed=5, samples=3))
    numbers = [[source() for _ in range(4)] for source in three]
    assert [one[0]() for _ in range(4)] == numbers[0]
    assert len({tuple(row) for row in numbers}) == 3
    assert uniforms(Sampling(seed=6))[0]() != numbers[0][0]
    assert uniforms(Sampling())[0]() != uniforms(Sampling())[0]()
