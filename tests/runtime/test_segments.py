"""Segments by hand."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models

from edgewise.runtime.results import Segment
from edgewise.runtime.segments import segments_of, up_to_stop
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


SAID = (
    Segment(start=0.0, end=0.5, text=" one two", tokens=(1, 2)),
    Segment(start=0.5, end=0.8, text=" three", tokens=(3,)),
    Segment(start=0.9, end=1.0, text="", tokens=(4,)),
)


@pytest.mark.parametrize(
    ("stops", "texts", "ends"),
    [
        ([], [" one two", " three", ""], [0.5, 0.8, 1.0]),
        (["four"], [" one two", " three", ""], [0.5, 0.8, 1.0]),
        ([" three"], [" one two"], [0.5]),
        (["ree"], [" one two", " th"], [0.5, None]),
        (["wo th"], [" one t"], [None]),
        (["three", "two"], [" one "], [None]),
        ([" o"], [], []),
    ],
)
def test_what_was_said_before_a_stop_string(stops: list[str], texts: list[str], ends: list[float | None]) -> None:
    kept = up_to_stop(SAID, stops)
    assert [segment.text for segment in kept] == texts
    assert [segment.end for segment in kept] == ends
    assert [(s.start, s.tokens) for s in kept] == [(s.start, s.tokens) for s in SAID[: len(kept)]]


def test_a_stop_string_behind_a_character_that_a_time_parts() -> None:
    library = Library(models.BPE(dict(zip("\u00c3\u00a9abS", range(5), strict=True)), []))
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([f"<{i}>" for i in range(5, 15)])
    parts = segments_of(Tokenizer(library.to_str().encode()), [5, 0, 6, 1, 2, 3, 4, 7], 5, ())
    assert [segment.text for segment in parts] == ["\ufffd", "\ufffdabS"]  # the text has one character there
    assert [segment.text for segment in up_to_stop(parts, ["S"])] == ["\ufffd", "\ufffdab"]
