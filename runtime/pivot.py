"""Translating by way of a language between, with one session into it and one out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack, overload

from ..errors import InputError
from .arguments import count, listed
from .keywords import DecodingArguments
from .reading import Texts
from .results import Generation, Hypothesis
from .session import Session


@dataclass(frozen=True, kw_only=True)
class Path:
    """One way from a text by what it is ``between`` to its translation ``out``.

    ``score``, the sum of the scores of both, is the log-probability (nats) of the two together; ``normalized_score``,
    that of their normalized scores, ranks paths.
    """

    between: Hypothesis
    out: Hypothesis

    @property
    def score(self) -> float:
        """``log p(between | text) + log p(out | between)``, tokens and not texts: other paths may give this text."""
        return self.between.score + self.out.score

    @property
    def normalized_score(self) -> float:
        """The same sum of what the length penalties left."""
        return self.between.normalized_score + self.out.normalized_score


@dataclass(frozen=True, kw_only=True)
class Pivoted:
    """A translation by way of another language: its ``paths``, best first.

    ``into``: what the first session found; ``truncated`` there says that the text was cut.
    """

    into: Generation
    paths: tuple[Path, ...]

    @property
    def text(self) -> str:
        """Of the best path."""
        return self.paths[0].out.text


@overload
def pivot(
    texts: str,
    first: Session,
    second: Session,
    *,
    candidates: int = 1,
    into: DecodingArguments | None = None,
    **arguments: Unpack[DecodingArguments],
) -> Pivoted: ...


@overload
def pivot(
    texts: Texts,
    first: Session,
    second: Session,
    *,
    candidates: int = 1,
    into: DecodingArguments | None = None,
    **arguments: Unpack[DecodingArguments],
) -> list[Pivoted]: ...


def pivot(
    texts: str | Texts,
    first: Session,
    second: Session,
    *,
    candidates: int = 1,
    into: DecodingArguments | None = None,
    **arguments: Unpack[DecodingArguments],
) -> Pivoted | list[Pivoted]:
    """Translate with ``first`` into a language between, and with ``second`` out of it; they may be one session.

    ``into``: keyword arguments of the first :meth:`~edgewise.runtime.session.Session.translate`; the rest are those of
    the second. Of each text the ``candidates`` best translations into the language between go on, and every one gives
    as many paths as ``n_best`` says. With one of each this is translating twice (Cohn and Lapata 2007 sum over the
    texts between, which ranking by the best path only approximates).

    Raises:
        InputError: ``candidates`` is no count or beside ``n_best`` of ``into``; a text between is empty where no other
            is left; or as ``translate``.
        ContextLengthError, EngineError: as ``translate``.
    """
    asked: DecodingArguments = {**(into or {})}
    if "n_best" in asked:
        raise InputError(f"n_best ({asked['n_best']!r}) among the arguments of into: pass candidates instead")
    if count(candidates, "candidates") > 1:
        asked["n_best"] = candidates
    found = first.translate(listed(texts), **asked)
    between = [[h for h in generation.hypotheses if h.text.strip()] for generation in found]
    if lost := [i for i, hypotheses in enumerate(between) if not hypotheses]:
        raise InputError(f"text {lost[0]} has an empty translation into the language between: nothing can go on")
    for name in ("prefix", "source", "target"):
        each = arguments.get(name)
        if isinstance(each, list | tuple) and len(each) == len(between):  # of every text, and so of all its paths
            arguments[name] = [one for one, paths in zip(each, between, strict=True) for _ in paths]
    outs = iter(second.translate([h.text for hypotheses in between for h in hypotheses], **arguments))
    results = [
        Pivoted(into=generation, paths=_ranked([(h, next(outs)) for h in hypotheses]))
        for generation, hypotheses in zip(found, between, strict=True)
    ]
    return results[0] if isinstance(texts, str) else results


def _ranked(ways: Sequence[tuple[Hypothesis, Generation]]) -> tuple[Path, ...]:
    """All paths of one text, best first; of equals the one whose text between ranked higher."""
    paths = [Path(between=between, out=out) for between, generation in ways for out in generation.hypotheses]
    return tuple(sorted(paths, key=lambda path: -path.normalized_score))
