"""Options refuse what no search can do."""

from __future__ import annotations

from typing import Any

import pytest

from edgewise.errors import InputError
from edgewise.runtime.options import DecodingOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, r"beam_size \(0\) must be an integer of at least 1"),
        ({"beam_size": True}, r"beam_size \(True\) must be an integer"),
        ({"beam_size": 2.0}, r"beam_size \(2.0\) must be an integer"),
        ({"n_best": 0}, r"n_best \(0\) must be an integer of at least 1"),
        ({"n_best": 3, "beam_size": 2}, r"n_best \(3\) cannot exceed beam_size \(2\): widen the beam"),
        ({"length_penalty": -0.1}, r"length_penalty \(-0.1\) must be a number of at least 0"),
        ({"length_penalty": float("nan")}, r"length_penalty \(nan\) must be a number"),
        ({"length_penalty": float("inf")}, r"length_penalty \(inf\) must be a number"),
        ({"length_penalty": "0.6"}, r"length_penalty \('0.6'\) must be a number"),
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\) must be an integer of at least 1, or None"),
        ({"max_new_tokens": "9"}, r"max_new_tokens \('9'\) must be an integer"),
        ({"overflow": "split"}, r"overflow \('split'\) must be 'error' or 'truncate'"),
    ],
    ids=str,
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DecodingOptions(**options)


def test_the_defaults_are_greedy() -> None:
    assert DecodingOptions() == DecodingOptions(
        beam_size=1, length_penalty=0.6, n_best=1, max_new_tokens=None, overflow="error"
    )
