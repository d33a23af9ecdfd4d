"""From the scores of a span's two ends to answers.

Source: Devlin et al. 2019, section 4.2, and ``QuestionAnsweringPipeline`` of transformers 4.57, file
``transformers/pipelines/question_answering.py``: a window's scores are a softmax over the tokens of its text and the
first token, which stands for no answer. Unlike there, spans of equal words in different places stay apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .encoders import probabilities
from .engine import Floats
from .results import Answer
from .tokenizer import TextToken

LONGEST = 30
"""Tokens of an answer, by default at most."""


Spans = list[tuple[int, int, float]]
"""First token, last token, score."""


def best_spans(logits: Floats, text_from: int, count: int, longest: int, top: int) -> Spans:
    """The ``top`` best spans from token to token of a window's text, from ``logits (S, 2)``; best first.

    The text's ``count`` tokens begin at ``text_from``. A score is the product of the probabilities of both ends; spans
    that end before they begin, or have more than ``longest`` tokens, are none.
    """
    read = np.concatenate([logits[:1], logits[text_from : text_from + count]])
    start, end = probabilities(read.T).astype(np.float64)[:, 1:]  # without the first token's: no answer is none
    width = min(longest, count)
    last = np.arange(count)[:, None] + np.arange(width)  # (first, length) -> last
    scores = np.where(last < count, start[:, None] * end[np.minimum(last, count - 1)], 0.0)
    order = np.argsort(-scores, axis=None, kind="stable")[:top].tolist()
    found = ((flat // width, flat // width + flat % width, float(scores.flat[flat])) for flat in order)
    return [span for span in found if span[2] > 0]


def answers(text: str, tokens: Sequence[TextToken], windows: Iterable[tuple[range, Spans]], top: int) -> list[Answer]:
    """The ``top`` best spans of ``windows``, best first; of a span that two windows hold the better score counts."""
    best: dict[tuple[int, int], float] = {}
    for places, spans in windows:
        for first, last, score in spans:
            ends = places[first], places[last]
            best[ends] = max(score, best.get(ends, 0.0))
        if len(best) > 4 * top:  # a long text has many windows
            best = dict(_ranked(best)[:top])
    return [_answer(text, tokens[first].start, tokens[last].end, score) for (first, last), score in _ranked(best)[:top]]


def _ranked(best: Mapping[tuple[int, int], float]) -> list[tuple[tuple[int, int], float]]:
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))


def _answer(text: str, start: int, end: int, score: float) -> Answer:
    return Answer(text=text[start:end], start=start, end=end, score=score)
