"""Requests that join and leave on the real engines, fp32 and int8: what each finds alone, to the bit where so said."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

import edgewise
from edgewise.quantize.schemes import scheme_of
from edgewise.runtime.continuous import ContinuousBatch, Job
from edgewise.runtime.options import Sampling
from edgewise.runtime.results import TokenHypothesis
from edgewise.runtime.session import Session

from ..bundles import tiny_bundle

pytestmark = pytest.mark.slow
WORDS = ["a", "man", "is", "riding", "the", "dog", "bicycle", "two", "girls", "play", "snow", "in", "red", "hat", "."]
LEAST_SAME = 0.9
"""Share of int8 results with the same tokens: a source padded to another length may round the other way."""
MIXED: list[dict[str, Any]] = [
    {},
    {"beam_size": 4, "n_best": 2},
    {"sampling": Sampling(seed=3, samples=2)},
    {"repetition_penalty": 1.5, "min_new_tokens": 4},
    {"beam_size": 4, "beam_groups": 2, "diversity_penalty": 0.5},
    {"alternatives": 2},
    {"beam_size": 4, "no_repeat_ngram": 2, "stop": ["man", "zz"]},
]


@pytest.fixture(scope="module", params=["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with edgewise.load(tiny_bundle("translate"), *request.param.split("-"), threads=1) as opened:
        yield opened


def _texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(count)]


def _as_long_as_each_other(session: Session, count: int) -> list[str]:
    """Texts of 8 tokens: sources that are padded alike, alone and beside each other."""
    found = [text for text in _texts(2000, 1) if len(session.tokenizer.encode(text)) == 8]
    assert len(found) >= count
    return found[:count]


def _asked(count: int) -> list[dict[str, Any]]:
    return [{**MIXED[i % len(MIXED)], "max_new_tokens": 6 + i % 11} for i in range(count)]


def _play(session: Session, arrivals: list[tuple[int, Job]], rows: int = 24) -> list[list[TokenHypothesis]]:
    batch: ContinuousBatch = session._batch(rows)
    left, step = sorted(arrivals, key=lambda arrival: arrival[0]), 0
    while left or batch.jobs:
        while left and left[0][0] <= step:
            batch.add(left.pop(0)[1])
        batch.step()
        step += 1
    return [job.result()[0] for _, job in arrivals]


def _jobs(session: Session, texts: list[str], asked: list[dict[str, Any]]) -> list[Job]:
    return [
        session._job("translate", text, options)  # type: ignore[arg-type]
        for text, options in zip(texts, asked, strict=True)
    ]


def test_random_arrivals_find_what_each_finds_alone(session: Session) -> None:
    texts, asked, rng = _texts(35, 2), _asked(35), random.Random(3)
    jobs = _jobs(session, texts, asked)
    together = _play(session, [(rng.randint(0, 40), job) for job in jobs])
    bound = scheme_of(session.variant.precision, session.variant.target).padding_bound
    same = 0
    for text, options, found in zip(texts, asked, together, strict=True):
        alone = session.translate(text, **options).hypotheses
        for one, other in zip(found, alone, strict=True):
            agreed = [a == b for a, b in zip(one.tokens, other.tokens, strict=False)]
            until = agreed.index(False) if False in agreed else len(agreed)
            assert one.token_log_probs[:until] == pytest.approx(other.token_log_probs[:until], abs=bound)
            same += one.tokens == other.tokens
    least = 1.0 if session.variant.precision == "fp32" else LEAST_SAME
    assert same >= least * sum(map(len, together))


@pytest.mark.parametrize("session", ["cpu-fp32", "cpu-int8"], indirect=True)
def test_mates_change_no_bit_on_the_cpu_target(session: Session) -> None:
    """Rows of the openvino target stand behind masked places, which may move their sums."""
    texts, asked, rng = _as_long_as_each_other(session, 28), _asked(28), random.Random(4)
    together = _play(session, [(rng.randint(0, 30), job) for job in _jobs(session, texts, asked)])
    for text, options, found in zip(texts, asked, together, strict=True):
        assert _play(session, [(0, *_jobs(session, [text], [options]))]) == [found]


@pytest.mark.parametrize("workers", [1, 8])
def test_many_callers_and_threads(session: Session, workers: int) -> None:
    texts, asked = _as_long_as_each_other(session, 28), _asked(28)

    async def work() -> Any:
        async with edgewise.AsyncSession(session, workers) as own:
            return await asyncio.gather(
                *(own.translate(text, **options) for text, options in zip(texts * 2, asked * 2, strict=True))
            )

    together = asyncio.run(work())
    if session.variant.target == "cpu":
        alone = [_play(session, [(0, job)])[0] for job in _jobs(session, texts, asked)] * 2
        assert [[h.token_log_probs for h in g.hypotheses] for g in together] == [
            [h.token_log_probs for h in found] for found in alone
        ]
    assert {g.hypotheses[0].finish_reason for g in together} <= {"end", "length", "stop"}
    if workers == 1:
        assert max(g.timings.batch for g in together) > 4
