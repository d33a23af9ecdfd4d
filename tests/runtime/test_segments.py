"""Segments by hand."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models

from edgewise.runtime.results import Segment
from edgewise.runtime.segments import segments_of, up_to
from edgewise.runtime.tokenizer import Tokenizer

END, FIRST = 2, 3  # then 0.00, 0.02, 0.04, ...


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    library = Library(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    library.add_special_tokens(["<end>", *(f"<{i}>" for i in range(100))])
    return Tokenizer(library.to_str().encode())


def segment(start: float, end: float | None, *tokens: int) -> Segment:
    return Segment(start=start, end=end, text=" ".join("ab"[token] for token in tokens), tokens=tokens)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], []),
        ([END], []),
        ([FIRST, END], []),
        ([FIRST, FIRST + 50, END], []),
        ([FIRST, 0, 1, FIRST + 29, END], [segment(0.0, 0.58, 0, 1)]),
        ([FIRST + 5, 0, FIRST + 7, FIRST + 7, 1], [segment(0.1, 0.14, 0), segment(0.14, None, 1)]),
        ([FIRST, 0, FIRST + 1, FIRST + 3, 1, FIRST + 9], [segment(0.0, 0.02, 0), segment(0.06, 0.18, 1)]),
        ([0, 1, END], [segment(0.0, None, 0, 1)]),
        ([0, FIRST + 4], [segment(0.0, 0.08, 0)]),
    ],
)
def test_texts_between_times(tokens: list[int], expected: list[Segment], tokenizer: Tokenizer) -> None:
    assert segments_of(tokenizer, tokens, FIRST, (END,)) == tuple(expected)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, []),
        (1, [Segment(start=0.0, end=None, text="a", tokens=(0, 1))]),
        (3, [segment(0.0, 1.0, 0, 1)]),
        (4, [segment(0.0, 1.0, 0, 1), segment(1.0, 2.0, 1)]),
        (9, [segment(0.0, 1.0, 0, 1), segment(1.0, 2.0, 1)]),
    ],
)
def test_segments_of_the_first_characters(length: int, expected: list[Segment]) -> None:
    assert up_to((segment(0.0, 1.0, 0, 1), segment(1.0, 2.0, 1)), length) == tuple(expected)
