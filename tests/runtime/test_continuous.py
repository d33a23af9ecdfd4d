"""Requests that join a running batch, each with options of its own: what each finds is the naive oracle's, alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewise.errors import EngineError, InputError
from edgewise.models import decode_options
from edgewise.models.decode_options import Options
from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.continuous import ContinuousBatch, Job, fill
from edgewise.runtime.decoding import Request
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.interrupt import Cancellation, Watch
from edgewise.runtime.options import DecodingOptions, Sampling

from ..tiny import START, random_sources, tiny_model
from .test_requests import PREFIXES, SAFE, Given, assert_same, draws, rules, searches, text_of
from .torch_engine import TorchEngine

ROWS = 12


def spec_of(model: Transformer) -> ModelSpec:
    return ModelSpec.from_json(model.config.to_json())


def job(source: Sequence[int], options: DecodingOptions, limit: int = 12, **more: Any) -> Job:
    prefix = tuple(more.pop("prefix", ()))
    request = Request(source=Prepared(ids=tuple(source)), limit=limit, prefix=prefix, text_of=text_of)
    return Job(request=request, options=options, **more)


class Played:
    """Jobs that came at given steps, until all had ended."""

    def __init__(self, engine: TorchEngine, arrivals: Sequence[tuple[int, Job]], rows: int = ROWS) -> None:
        self.engine = engine
        self.batch = ContinuousBatch(engine, spec_of(engine.model), rows)
        self.ended: list[Job] = []
        left, step = sorted(arrivals, key=lambda arrival: arrival[0]), 0
        while left or self.batch.jobs:
            while left and left[0][0] <= step:
                self.batch.add(left.pop(0)[1])
            self.ended += self.batch.step()
            self._check_rows()
            step += 1

    def _check_rows(self) -> None:
        """No row is kept that nobody sits in, and no more are in use than allowed."""
        groups = self.batch._groups
        assert [len(g.run.read) for g in groups] == [len(g.seats) * g.rows for g in groups]  # type: ignore[attr-defined]
        jobs = [seat.job for group in groups for seat in group.seats]
        assert len(jobs) == 1 or sum(job.options.rows for job in jobs) <= ROWS

    @property
    def steps(self) -> int:
        return sum(run.steps for run in self.engine.open_runs)


def asked_for() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "at": st.integers(0, 12),
            "search": st.one_of(searches(), draws().map(lambda drawn: {"sampling": drawn}), st.just({})),
            "rule": st.one_of(st.just({}), rules()),
            "prefix": st.one_of(st.just([]), PREFIXES),
            "limit": st.integers(4, 9),
        }
    )


def _options(search: Given, rule: Given, seed: int) -> DecodingOptions:
    if "sampling" in search:
        return DecodingOptions(sampling=Sampling(**search["sampling"], seed=seed, samples=2), **rule)
    pool = DecodingOptions(**search)
    return DecodingOptions(**search, **rule, n_best=min(pool.beam_size, pool.pool_size * pool.beam_groups))


def _oracle(model: Transformer, source: list[int], options: DecodingOptions, asked: dict[str, Any], seed: int) -> Any:
    given = {**asked["rule"], "max_new_tokens": asked["limit"], "prefix": asked["prefix"]}
    if options.sampling:
        return decode_options.sample(model, source, Options(**asked["search"]["sampling"], **given), seed, 2, text_of)
    naive = Options(**asked["search"], **given, n_best=options.n_best)
    return decode_options.beam(model, source, naive, text_of)


def test_random_arrivals_with_options_of_their_own_are_the_oracle() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 9), asked=st.lists(asked_for(), min_size=2, max_size=7))
    def compare(seed: int, asked: list[dict[str, Any]]) -> None:
        model, sources = tiny_model(seed, end_bias=0.5), random_sources(seed, len(asked))
        options = [_options(each["search"], each["rule"], seed) for each in asked]
        jobs = [
            job(source, own, each["limit"], prefix=each["prefix"])
            for source, own, each in zip(sources, options, asked, strict=True)
        ]
        played = Played(TorchEngine(model), [(each["at"], one) for each, one in zip(asked, jobs, strict=True)])
        assert set(played.ended) == set(jobs)
        for one, source, own, each in zip(jobs, sources, options, asked, strict=True):
            expected, margin = _oracle(model, source, own, each, seed)
            if margin <= SAFE or not expected:
                continue
            assert one.found is not None, one.error
            assert_same(one.found, expected, own.length_penalty)
            assert one.timings is not None
            shared = one.timings.batch > 1
            seen.update(compared=1, shared=shared, beams=shared and own.rows > 1, ruled=shared and bool(each["rule"]))

    compare()
    assert seen["compared"] > 100, seen
    assert min(seen["shared"], seen["beams"], seen["ruled"]) > 15, seen


def test_those_who_come_later_share_the_steps() -> None:
    model, sources = tiny_model(3, end_bias=-50.0), random_sources(3, 6)
    arrivals = [(2 * i, job(source, DecodingOptions())) for i, source in enumerate(sources)]
    played = Played(TorchEngine(model), arrivals)
    assert len(played.engine.open_runs) == 1
    assert played.steps == 10 + 12
    assert max(played.engine.open_runs[0].rows) == 6
    assert [one.timings.batch for one in played.ended if one.timings] == [6] * 6


def test_timings_hold_the_source_and_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves only where the engine works: 100 a source, 10 a prompt that joins, and 1 a step."""
    clock, engine = [0.0], TorchEngine(tiny_model(3, end_bias=-50.0))
    monkeypatch.setattr("edgewise.runtime.continuous.time.perf_counter", lambda: clock[0])
    encode, open_run = engine.encode_source, engine.open_run

    def takes(seconds: float, work: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            clock[0] += seconds
            return work(*arguments)

        return timed

    def opened(*arguments: Any) -> Any:
        run = open_run(*arguments)
        run.join, run.step = takes(10, run.join), takes(1, run.step)  # type: ignore[method-assign]
        return run

    monkeypatch.setattr(engine, "encode_source", takes(100, encode))
    monkeypatch.setattr(engine, "open_run", opened)
    early, late = (job([5, 2], DecodingOptions(), limit) for limit in (5, 3))
    Played(engine, [(0, early), (2, late)])
    assert early.timings is not None
    assert (early.timings.first_token, early.timings.total) == (111, 115 + 110)
    assert late.timings is not None
    assert (late.timings.first_token, late.timings.total) == (111, 113)


def test_a_free_place_is_taken_at_once() -> None:
    model, sources = tiny_model(3, end_bias=-50.0), random_sources(3, 4)
    jobs = [job(source, DecodingOptions(), limit) for source, limit in zip(sources, (3, 9, 4, 2), strict=True)]
    batch = ContinuousBatch(TorchEngine(model), spec_of(model), rows=2)
    assert list(fill(batch, jobs, ahead=4)) == jobs
    engine = batch._engine
    assert isinstance(engine, TorchEngine)
    assert engine.open_runs[0].rows == [2] * 9


def test_at_most_so_many_are_read_ahead() -> None:
    model, read = tiny_model(3, end_bias=-50.0), []

    def coming() -> Any:
        for i in range(9):
            read.append(i)
            yield job([5, 2], DecodingOptions(), 20 if i == 0 else 2)

    batch = ContinuousBatch(TorchEngine(model), spec_of(model), rows=2)
    for done, _ in enumerate(fill(batch, coming(), ahead=3)):
        assert len(read) <= done + 3 + 2  # three not given back, the one to come, and the one that was just given


def test_what_ends_the_reading_is_raised_once_all_before_it_are_given_back() -> None:
    model = tiny_model(3, end_bias=-50.0)
    jobs = [job([5, 2], DecodingOptions(), limit) for limit in (9, 2, 4)]

    def coming() -> Any:
        yield from jobs
        raise InputError("text 3 is empty")

    given = fill(ContinuousBatch(TorchEngine(model), spec_of(model), rows=2), coming(), ahead=9)
    assert [next(given), next(given), next(given)] == jobs
    assert all(one.found for one in jobs)
    with pytest.raises(InputError, match="text 3 is empty"):
        next(given)


def test_they_join_in_the_order_of_their_coming_and_a_large_one_alone() -> None:
    model = tiny_model(3, end_bias=-50.0)
    wide = DecodingOptions(beam_size=11)
    jobs = [job([5, 2], options, 5) for options in (DecodingOptions(), wide, DecodingOptions(), DecodingOptions())]
    huge = job([5, 2], DecodingOptions(sampling=Sampling(seed=1, samples=14)), 5)
    played = Played(TorchEngine(model), [(0, one) for one in (*jobs, huge)])
    assert played.ended == [jobs[0], jobs[1], jobs[2], jobs[3], huge]


def test_source_tokens_are_bounded() -> None:
    model = tiny_model(3, end_bias=-50.0)
    engine = TorchEngine(model)
    batch = ContinuousBatch(engine, spec_of(model), rows=99, tokens=12)
    for length in (4, 3, 4, 9):
        batch.add(job([5] * (length - 1) + [2], DecodingOptions(), 3))
    while batch.jobs:
        batch.step()
    assert engine.encoded == [(3, 4), (1, 9)]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(3, end_bias=-50.0)
    batch = ContinuousBatch(TorchEngine(model), spec_of(model), rows=99)
    one = job([5, 2], DecodingOptions(), 3)
    monkeypatch.setattr("edgewise.runtime.continuous.memory_budget", lambda: 3 * batch._bytes_a_row(one))
    batch.add(one)
    assert batch.fits(one)
    batch.add(one)
    assert batch.fits(one)
    assert not batch.fits(job([5, 2], DecodingOptions(), 40)), "rows as long as the longest"
    batch.add(one)
    assert not batch.fits(one)


@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder"])
def test_without_open_runs_those_who_come_together_share_a_run(architecture: Any) -> None:
    model = tiny_model(3, architecture, end_bias=-50.0)
    engine = TorchEngine(model)
    engine.open_run = lambda beams, candidates: None  # type: ignore[method-assign]
    sources = [[START, 5, 7], [START, 6, 7], [START, 5, 8]]
    batch = ContinuousBatch(engine, spec_of(model), rows=ROWS)
    jobs = [job(source, DecodingOptions(beam_size=2), 4 + i) for i, source in enumerate(sources)]
    for one in jobs[:2]:
        batch.add(one)
    batch.step()
    batch.add(jobs[2])
    while batch.jobs:
        batch.step()
    assert len(engine.runs) == 2
    alone = Played(TorchEngine(model), [(99, job(jobs[2].request.source.ids, jobs[2].options, 6))])
    assert jobs[2].found == alone.ended[0].found
    assert [h.tokens for one in jobs for h in one.found or ()] == [
        h.tokens
        for one in jobs
        for h in Played(TorchEngine(model), [(0, job(one.request.source.ids, one.options, one.request.limit))])
        .ended[0]
        .result()[0]
    ]


# --- what goes wrong with one leaves the others alone -----------------------------------------------------------------


def _with_mates(troubled: Job, engine: TorchEngine | None = None) -> Job:
    """``troubled`` amid two others, which find what they find alone."""
    model = tiny_model(4, end_bias=-50.0)
    sources = random_sources(4, 2)
    mates = [job(source, DecodingOptions(beam_size=troubled.options.beam_size)) for source in sources]
    played = Played(engine or TorchEngine(model), [(0, mates[0]), (2, troubled), (3, mates[1])])
    for source, mate in zip(sources, mates, strict=True):
        (alone,) = Played(TorchEngine(model), [(0, job(source, mate.options))]).ended
        assert [h.tokens for h in mate.result()[0]] == [h.tokens for h in alone.result()[0]]
    assert len(played.ended) == 3
    return troubled


def test_options_that_leave_no_token() -> None:
    impossible = DecodingOptions(suppress=[[token] for token in range(24)])
    with pytest.raises(InputError, match="the options leave no token that may follow after 0 new ones"):
        _with_mates(job([5, 2], impossible)).result()


def test_an_error_in_who_listens() -> None:
    def listens(search: Any) -> None:
        if len(search.agreed()) == 3:
            raise RuntimeError("the listener is gone")

    with pytest.raises(RuntimeError, match="the listener is gone"):
        _with_mates(job([5, 2], DecodingOptions(), on_step=listens)).result()


def test_a_cancellation() -> None:
    cancellation, heard = Cancellation(), []

    def listens(search: Any) -> None:
        heard.append(search.agreed())
        if len(heard) == 4:
            cancellation.cancel()

    found, _ = _with_mates(job([5, 2], DecodingOptions(), watch=Watch(cancellation), on_step=listens)).result()
    assert (found[0].finish_reason, len(found[0].tokens)) == ("cancelled", 5)
    assert found[0].tokens == heard[-1]


def test_a_deadline_before_its_turn() -> None:
    found, timings = _with_mates(job([5, 2], DecodingOptions(), watch=Watch(None, 0.0))).result()
    assert (found[0].finish_reason, found[0].tokens, timings.total) == ("deadline", (), 0.0)


def test_a_source_that_the_engine_refuses() -> None:
    engine = TorchEngine(tiny_model(4, end_bias=-50.0))
    encode = engine.encode_source

    def refuses(ids: Any, mask: Any) -> Any:
        if (ids == 23).any():
            raise EngineError("no such source")
        return encode(ids, mask)

    engine.encode_source = refuses  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="no such source"):
        _with_mates(job([23, 2], DecodingOptions()), engine).result()


def test_a_call_of_the_engine_that_fails_ends_those_that_shared_it() -> None:
    engine = TorchEngine(tiny_model(4, end_bias=-50.0))
    batch = ContinuousBatch(engine, spec_of(engine.model), ROWS)
    jobs = [job([5, 2], DecodingOptions(beam_size=beams)) for beams in (1, 2, 2)]
    for one in jobs:
        batch.add(one)
    batch.step()

    def fails(*_: Any) -> Any:
        raise EngineError("the device is gone")

    engine.open_runs[1].step = fails  # type: ignore[method-assign]
    assert set(batch.step()) == set(jobs[1:])
    for one in jobs[1:]:
        with pytest.raises(EngineError, match="the device is gone"):
            one.result()
    while batch.jobs:
        batch.step()
    assert jobs[0].result()


def test_what_is_closed_ends_all() -> None:
    def closed() -> None:
        raise EngineError("the session was closed")

    engine = TorchEngine(tiny_model(4))
    batch = ContinuousBatch(engine, spec_of(engine.model), ROWS, check=closed)
    jobs = [job([5, 2], DecodingOptions()) for _ in range(2)]
    for one in jobs:
        batch.add(one)
    assert set(batch.step()) == set(jobs)
    assert not batch.jobs
    assert all(isinstance(one.error, EngineError) for one in jobs)
