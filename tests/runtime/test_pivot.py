"""Translating by way of a language between: what translating twice by hand gives."""

from __future__ import annotations

from typing import Any

import pytest

import edgewise
from edgewise.errors import InputError

from .tiny_session import session_for

TEXTS = ["A man is riding", "Two dogs run on the grass."]
LIMITS: Any = {"max_new_tokens": 12}


def test_one_candidate_is_translating_twice() -> None:
    first, second = session_for("translate", 1), session_for("translate", 2)
    found = edgewise.pivot(TEXTS, first, second, into={"beam_size": 3, **LIMITS}, **LIMITS)
    for text, result in zip(TEXTS, found, strict=True):
        into = first.translate(text, beam_size=3, **LIMITS)
        out = second.translate(into.text, **LIMITS)
        assert (result.into.tokens, result.text) == (into.tokens, out.text)
        assert [path.out.tokens for path in result.paths] == [out.tokens]
        assert result.paths[0].score == pytest.approx(into.score + out.score, abs=1e-5)
        assert edgewise.pivot(text, first, second, into={"beam_size": 3, **LIMITS}, **LIMITS).text == result.text


def test_paths_are_ranked_by_both_scores() -> None:
    first, second = session_for("translate", 1), session_for("translate", 2)
    into: Any = {"beam_size": 4, **LIMITS}
    found = edgewise.pivot(TEXTS[0], first, second, candidates=3, into=into, beam_size=3, n_best=2, **LIMITS)
    expected = [
        (h.normalized_score + out.normalized_score, h.tokens, out.tokens)
        for h in first.translate(TEXTS[0], n_best=3, **into).hypotheses
        for out in second.translate(h.text, beam_size=3, n_best=2, **LIMITS).hypotheses
    ]
    expected.sort(key=lambda path: -path[0])
    assert len(expected) == 6
    assert [(p.between.tokens, p.out.tokens) for p in found.paths] == [path[1:] for path in expected]
    scores = [path[0] for path in expected]
    assert [p.normalized_score for p in found.paths] == pytest.approx(scores, abs=1e-4)


def test_what_is_said_of_each_text_is_said_of_all_its_paths() -> None:
    first, second = session_for("translate", 1), session_for("translate", 2)
    arguments: Any = {"candidates": 2, "into": {"beam_size": 2, **LIMITS}, **LIMITS}
    found = edgewise.pivot(TEXTS, first, second, prefix=["A man", "Two dogs"], **arguments)
    for text, prefix, result in zip(TEXTS, ["A man", "Two dogs"], found, strict=True):
        alone = edgewise.pivot(text, first, second, prefix=prefix, **arguments)
        assert [path.out.tokens for path in result.paths] == [path.out.tokens for path in alone.paths]


def test_what_is_refused() -> None:
    session = session_for("translate", 1)
    with pytest.raises(InputError, match=r"candidates \(0\) must be an integer of at least 1"):
        edgewise.pivot(TEXTS, session, session, candidates=0)
    with pytest.raises(InputError, match=r"n_best \(2\) among the arguments of into: pass candidates instead"):
        edgewise.pivot(TEXTS, session, session, into={"n_best": 2})
    with pytest.raises(InputError, match="text 0 has an empty translation into the language between"):
        edgewise.pivot(TEXTS, session_for("translate", 1, end_bias=50.0), session)
    with pytest.raises(InputError, match="translate needs a bundle made for translate"):
        edgewise.pivot(TEXTS, session, session_for("generate"))
