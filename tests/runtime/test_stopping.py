"""Where a text stops, and what of it may be shown."""

from __future__ import annotations

import pytest

from edgewise.runtime.stopping import before_stop, certain


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("a man", [], "a man"),
        ("a man", ["x"], "a man"),
        ("a man, a hat", [","], "a man"),
        ("a man, a hat", ["hat", "man"], "a "),
        ("aab", ["ab"], "a"),
    ],
)
def test_a_text_ends_before_the_first_stop(text: str, stops: list[str], expected: str) -> None:
    assert before_stop(text, stops) == expected


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("a man", [], "a man"),
        ("a man", ["n,"], "a ma"),
        ("a man", ["man,", "n,"], "a "),
        ("a man", ["man"], "a man"),
        ("aa", ["aab"], ""),
        ("aaa", ["aab"], "a"),
        ("", ["a"], ""),
    ],
)
def test_what_may_begin_a_stop_is_not_certain(text: str, stops: list[str], expected: str) -> None:
    assert certain(text, stops) == expected
