"""From tokens with times among them to what was said from when to when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .bundle.speech import TIMES_A_SECOND
from .results import Segment
from .stopping import before_stop
from .tokenizer import Tokenizer


def segments_of(
    tokenizer: Tokenizer, tokens: Sequence[int], first_time: int, silent: Sequence[int]
) -> tuple[Segment, ...]:
    """Every text between two times; ``first_time`` is the token of time 0, and tokens that are ``silent`` have no text.

    A text before any time begins at 0.
    """
    spoken = [token for token in tokens if token not in silent]
    return tuple(
        Segment(start=start, end=end, text=tokenizer.decode(words), tokens=tuple(words))
        for start, words, end in _pieces(spoken, first_time)
    )


def up_to_stop(segments: Sequence[Segment], stops: Sequence[str]) -> tuple[Segment, ...]:
    """What of ``segments`` was said before the first of ``stops``, which may begin in one and end in the next.

    It is looked for in the texts of the segments, of which each shows its part of a character that a time parts. One
    that is cut has no end: no time was given there.
    """
    text = "".join(segment.text for segment in segments)
    left = len(before_stop(text, stops))
    if left == len(text):
        return tuple(segments)
    kept = list[Segment]()
    for segment in segments:
        if left > 0:
            whole = len(segment.text) <= left
            kept.append(segment if whole else replace(segment, text=segment.text[:left], end=None))
        left -= len(segment.text)
    return tuple(kept)


def _pieces(tokens: Sequence[int], first_time: int) -> Iterator[tuple[float, list[int], float | None]]:
    """Begin, tokens, and end of every piece that has tokens."""
    start, words = 0.0, list[int]()
    for token in tokens:
        if token < first_time:
            words.append(token)
            continue
        seconds = (token - first_time) / TIMES_A_SECOND
        if words:
            yield start, words, seconds
            words = []
        start = seconds
    if words:
        yield start, words, None
