"""Banks by hand."""

from __future__ import annotations

import random

import pytest

from edgewise.models import decode_options
from edgewise.runtime.constraints import missing, share_out


@pytest.mark.parametrize(
    ("tokens", "lacking"),
    [
        ((), 5),
        ((7,), 4),
        ((7, 8), 3),
        ((7, 8, 9), 2),
        ((7, 8, 5), 4),
        ((7, 8, 9, 5), 1),
        ((7, 8, 9, 5, 5), 1),
        ((7, 8, 9, 5, 6, 4), 0),
        ((5, 6, 7, 7, 8), 1),
        ((7, 8, 7), 4),
        ((5, 6, 7, 8), 1),
    ],
)
def test_what_is_missing(tokens: tuple[int, ...], lacking: int) -> None:
    assert missing(tokens, [(7, 8, 9), (5, 6)]) == lacking
    assert 5 - decode_options.held(tokens, [(7, 8, 9), (5, 6)]) == lacking


@pytest.mark.parametrize(
    ("beams", "candidates", "shares"),
    [
        (6, [9, 9, 9], [2, 2, 2]),
        (5, [9, 9, 9], [1, 1, 3]),
        (5, [9, 0, 0], [5, 0, 0]),
        (5, [9, 2, 0], [3, 2, 0]),
        (5, [1, 1, 9], [1, 1, 3]),
        (2, [9, 3, 0], [0, 2, 0]),
        (4, [1, 1, 0], [1, 1, 0]),
        (4, [7], [4]),
    ],
)
def test_beams_are_shared_out(beams: int, candidates: list[int], shares: list[int]) -> None:
    assert share_out(beams, candidates) == shares
    assert decode_options.shares(beams, candidates) == shares


def test_shares_are_those_of_the_oracle_and_use_every_beam() -> None:
    draw = random.Random(0)
    for _ in range(500):
        candidates = [draw.choice([0, 1, 2, 9]) for _ in range(draw.randint(1, 6))]
        beams = draw.randint(1, 8)
        found = share_out(beams, candidates)
        assert found == decode_options.shares(beams, candidates)
        assert sum(found) == min(beams, sum(candidates))
