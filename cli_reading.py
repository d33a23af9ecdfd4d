"""What ``edgewise run`` prints of encoder-only models that give classes, values, entities or answers.

A line with one tab is two texts: a pair, or a question and the text that holds its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from .runtime.reading import LongText
    from .runtime.session import Session

Answers = list[dict[str, Any]]


def reader(session: Session, overflow: LongText, batch_size: int) -> Callable[[list[str]], Answers]:
    """What turns lines into results: ``output`` is what the text mode prints."""
    if session.manifest.task == "tag":
        return lambda lines: [_entities(found) for found in session.tag(lines, batch_size=batch_size)]
    if session.manifest.task == "answer":
        return lambda lines: [_answer(session, line, batch_size) for line in lines]
    method: Any = session.classify if session.manifest.task == "classify" else session.regress
    pairs = bool(session.manifest.model.pair_between)

    def scored(lines: list[str]) -> Answers:
        cut = [line.split("\t") for line in lines]
        if pairs and (most := max(map(len, cut), default=0)) > 2:
            raise InputError(f"a line has {most - 1} tabs, expected one between two texts, or none")
        if pairs and lines and all(len(texts) == 2 for texts in cut):
            firsts, seconds = [first for first, _ in cut], [second for _, second in cut]
            return [*map(_scores, method(firsts, pairs=seconds, overflow=overflow, batch_size=batch_size))]
        if pairs and len(lines) > 1 and any(len(texts) == 2 for texts in cut):
            return [answer for line in lines for answer in scored([line])]
        return [*map(_scores, method(lines, overflow=overflow, batch_size=batch_size))]

    return scored


def _scores(found: Any) -> dict[str, Any]:
    fields = vars(found)
    if "label" in fields:
        return {"output": f"{found.label}\t{found.probability:.4f}", **fields}
    return {"output": " ".join(f"{value:.7g}" for value in found.values.values()), **fields}


def _entities(found: list[Any]) -> dict[str, Any]:
    named = [f"{entity.text}/{entity.label}" for entity in found]
    return {"output": " ".join(named), "truncated": False, "entities": [vars(entity) for entity in found]}


def _answer(session: Session, line: str, batch_size: int) -> dict[str, Any]:
    texts = line.split("\t")
    if len(texts) != 2:
        raise InputError(f"a line has {len(texts) - 1} tabs, expected one: between a question and its text")
    found = session.answer(texts[0], texts[1], batch_size=batch_size)
    best = found[0].text if found else ""
    return {"output": best, "truncated": False, "answers": [vars(answer) for answer in found]}
