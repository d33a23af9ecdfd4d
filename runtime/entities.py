"""From the classes of tokens to entities in a text.

The strategies and rules are those of ``TokenClassificationPipeline`` in transformers 5.24.0, file
``transformers/pipelines/token_classification.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .results import Entity
from .tokenizer import TextToken, Tokenizer

Aggregation = Literal["none", "simple", "first", "average", "max"]
"""Which of a word's tokens decides its class: each for itself (``simple``; ``none``: and no neighbours are joined), the
``first``, the most certain (``max``), or the ``average`` of all."""
OUTSIDE = "O"
"""The class of tokens that belong to no entity."""

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class _Piece:
    """A token or a word: the class with the best of its ``scores (classes,)``, and where it stands."""

    label: str
    score: float
    start: int
    end: int


def check_aggregation(aggregation: str) -> None:
    """Refuse a strategy that there is not.

    Raises:
        InputError: it is none of :data:`Aggregation`.
    """
    if aggregation not in get_args(Aggregation):
        known = ", ".join(map(repr, get_args(Aggregation)))
        raise InputError(f"aggregation is {aggregation!r}, expected one of {known}")


def entities(
    tokenizer: Tokenizer,
    text: str,
    tokens: Sequence[TextToken],
    scores: Scores,
    names: Sequence[str],
    aggregation: Aggregation,
) -> list[Entity]:
    """The entities of ``text`` from probabilities ``scores (tokens, classes)``, in order; what is outside is left out.

    Neighbours of one class are joined, until one begins a new entity (``B-``).
    """
    groups = (
        _groups(tokenizer, text, tokens) if aggregation not in ("none", "simple") else [[i] for i in range(len(tokens))]
    )
    pieces = []
    for group in groups:
        own = _MERGED[aggregation](scores[group])
        best = int(own.argmax())
        pieces.append(_Piece(names[best], float(own[best]), tokens[group[0]].start, tokens[group[-1]].end))
    joined = [[piece] for piece in pieces] if aggregation == "none" else _joined(pieces)
    found = (_entity(text, run, aggregation == "none") for run in joined)
    return [entity for entity in found if entity.label != OUTSIDE]


_MERGED: dict[Aggregation, Callable[[Scores], Scores]] = {
    "none": lambda scores: scores[0],
    "simple": lambda scores: scores[0],
    "first": lambda scores: scores[0],
    "max": lambda scores: scores[int(scores.max(axis=1).argmax())],
    "average": lambda scores: scores.mean(axis=0),
}


def _groups(tokenizer: Tokenizer, text: str, tokens: Sequence[TextToken]) -> list[list[int]]:
    """Indices of the tokens of each word. Where no mark says that a token goes on with one, white space parts words."""
    groups: list[list[int]] = []
    for i, token in enumerate(tokens):
        goes_on = tokenizer.continues(token.id)
        if goes_on is None:
            goes_on = token.start > 0 and not text[token.start - 1 : token.start].isspace()
            goes_on = goes_on and token.id != tokenizer.unknown_id
        if groups and goes_on:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _joined(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    run = [*pieces[:1]]
    for before, piece in pairwise(pieces):
        begins, kind = _parts(piece.label)
        if kind == _parts(before.label)[1] and not begins:
            run.append(piece)
        else:
            yield run
            run = [piece]
    if run:
        yield run


def _parts(label: str) -> tuple[bool, str]:
    """Whether a class begins an entity, and the kind of entity; without ``B-`` and ``I-`` it goes on with one."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _entity(text: str, run: Sequence[_Piece], whole_label: bool) -> Entity:
    start = run[0].start
    end = start + len(text[start : run[-1].end].rstrip())
    return Entity(
        label=run[0].label if whole_label else run[0].label.split("-", 1)[-1],
        score=float(np.mean([piece.score for piece in run])),
        start=start,
        end=end,
        text=text[start:end],
    )
