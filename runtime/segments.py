"""From tokens with times among them to what was said from when to when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .bundle.speech import TIMES_A_SECOND
from .results import Segment
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


def up_to(segments: Sequence[Segment], length: int) -> tuple[Segment, ...]:
    """What of ``segments`` stands before a stop string: their first ``length`` characters. The last has no end."""
    kept = list[Segment]()
    for segment in segments:
        if length > 0:
            whole = len(segment.text) <= length
            kept.append(segment if whole else replace(segment, text=segment.text[:length], end=None))
        length -= len(segment.text)
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
