"""From the scores of a span's two ends to answers.

Source: Devlin et al. 2019, section 4.2, and ``QuestionAnsweringPipeline`` of transformers 4.57, file
``transformers/pipelines/question_answering.py``: a window's scores are a softmax over the tokens of its text and the
first token, which stands for no answer. Unlike there, spans of equal words in different places stay apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .encoders import probabilities
from .engine import Floats
from .results import Answer
from .tokenizer import TextToken

LONGEST = 30
"""Tokens of an answer, by default at most."""


def span_scores(logits: Floats, text_from: int, count: int, longest: int) -> NDArray[np.float64]:
    """Scores ``(count, count)`` of the spans from token to token of a window's text, from ``logits (S, 2)``.

    The text's ``count`` tokens begin at ``text_from``. A score is the product of the probabilities of both ends; spans
    that end before they begin, or have more than ``longest`` tokens, have 0.
    """
    read = np.concatenate([logits[:1], logits[text_from : text_from + count]])
    start, end = probabilities(read.T).astype(np.float64)[:, 1:]  # without the first token's: no answer is none
    return np.tril(np.triu(np.outer(start, end)), longest - 1)


def answers(
    text: str, tokens: Sequence[TextToken], windows: Sequence[tuple[range, NDArray[np.float64]]], top: int
) -> list[Answer]:
    """The ``top`` best spans of ``windows``, best first; of a span that two windows hold the better score counts."""
    best: dict[tuple[int, int], float] = {}
    for places, scores in windows:
        for flat in np.argsort(-scores, axis=None, kind="stable")[:top].tolist():
            first, last = divmod(flat, len(places))
            ends = places[first], places[last]
            if scores[first, last] > best.get(ends, 0.0):
                best[ends] = float(scores[first, last])
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [_answer(text, tokens[first].start, tokens[last].end, score) for (first, last), score in ranked]


def _answer(text: str, start: int, end: int, score: float) -> Answer:
    return Answer(text=text[start:end], start=start, end=end, score=score)
