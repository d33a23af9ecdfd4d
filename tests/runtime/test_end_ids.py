"""Further tokens that end a result: what comes is what came without them, up to the first of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from edgewise.errors import BundleFormatError, InputError
from edgewise.runtime.asynchronous import AsyncSession
from edgewise.runtime.bundle.manifest import Generation
from edgewise.runtime.options import Sampling
from edgewise.runtime.session import Session

from .tiny_session import session_for

TEXTS = ["A man", "Two dogs run", "Ein Mann fährt", "A woman, a hat."]
MOST = 24
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "rules": {"repetition_penalty": 1.3},
    "samples": {"sampling": Sampling(seed=5)},
    "prefix": {"prefix": "A"},
}


def session(*end_ids: int) -> Session:
    generation = Generation(beam_size=1, length_penalty=0.6, max_new_tokens=MOST, end_ids=end_ids)
    return session_for("generate", end_bias=-4.0, changes={"generation": generation})


def cut(tokens: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, ...]:
    return tokens[: next((i for i, token in enumerate(tokens, 1) if token in ends), len(tokens))]


def common(found: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Two tokens that come somewhere in the middle of results, in as many as possible."""
    counts = Counter(token for tokens in found for token in set(tokens[2:]) - set(tokens[:2]))
    return tuple(token for token, _ in counts.most_common(2))


@pytest.mark.parametrize("arguments", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_result_ends_at_the_first_of_them(arguments: dict[str, Any]) -> None:
    whole = [session().generate(text, **arguments).tokens for text in TEXTS]
    ends = common(whole)
    expected = [cut(tokens, ends) for tokens in whole]
    assert expected != whole
    opened = session(*ends)
    alone = [opened.generate(text, **arguments) for text in TEXTS]
    assert [g.tokens for g in alone] == expected
    assert [g.hypotheses[0].finish_reason for g in alone].count("end") >= sum(
        e != w for e, w in zip(expected, whole, strict=True)
    )
    assert [g.tokens for g in opened.generate(TEXTS, **arguments)] == expected
    assert ["".join(opened.stream(text, **arguments)) for text in TEXTS] == [g.text for g in alone]
    assert [g.tokens for g in opened.generate_iter(TEXTS, continuous=True, **arguments)] == expected
    assert [opened.generate(text, end_ids=(), **arguments).tokens for text in TEXTS] == whole
    assert [session().generate(text, end_ids=list(ends), **arguments).tokens for text in TEXTS] == expected


def test_many_callers() -> None:
    whole = [session().generate(text).tokens for text in TEXTS]
    ends = common(whole)

    async def run() -> list[tuple[int, ...]]:
        async with AsyncSession(session(*ends)) as opened:
            return [found.tokens for found in await asyncio.gather(*map(opened.generate, TEXTS))]

    assert asyncio.run(run()) == [cut(tokens, ends) for tokens in whole]


@pytest.mark.parametrize("given", [[-1], [330], [1, 331]])
def test_a_token_that_is_none(given: list[int]) -> None:
    with pytest.raises(InputError, match=rf"end_ids has the token id {given[-1]}, and the vocabulary ends at 329"):
        session().generate("A", end_ids=given)


@pytest.mark.parametrize("given", [7, "7", ["7"], [True]])
def test_no_tokens(given: Any) -> None:
    with pytest.raises(InputError, match=r"end_ids \(.*\) must be a list or tuple of token ids, or empty"):
        session().generate("A", end_ids=given)


def test_a_bundle_with_a_token_that_is_none() -> None:
    with pytest.raises(BundleFormatError, match=r"end_ids \(330\) must be below vocab_size \(330\)"):
        session(330)
