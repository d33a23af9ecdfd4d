"""Continuous batching: requests join a batch that is under way, between its steps, and leave it when they are done.

Every request has options of its own and the search of :mod:`edgewise.runtime.requests`; what it finds is what it would
alone, up to rounding. Requests of as many rows (beams, samples, alternatives) share the steps of one
:class:`~edgewise.runtime.engine.OpenRun`; those of other numbers of rows have a run of their own, and all runs take
turns. Where the engine has no open runs, those that were admitted together share a run that no one joins.

What goes wrong with one request, in its options or in whoever listens to it, ends that one alone. What goes wrong in an
engine ends those that shared its call.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .batching import memory_budget
from .bundle.model_spec import ModelSpec
from .decoding import Check, Request, bytes_of, capacity, not_begun, prompt_of, request_search
from .deferred import or_error
from .engine import Candidates, DecoderRun, Engine, Floats, Ids, Memory, OpenRun, places_kept
from .greedy import GreedyRequest
from .inputs import right_pad
from .interrupt import Watch
from .options import DecodingOptions
from .requests import RequestSearch
from .results import Timings, TokenHypothesis
from .search import refuse_nan


@dataclass(eq=False, kw_only=True)
class Job:
    """A request on its way through a batch, and in the end ``found`` and ``timings``, or an ``error``."""

    request: Request
    options: DecodingOptions
    text: str = ""
    """What it was made of, for alignments."""
    watch: Watch = field(default_factory=Watch)
    on_step: Callable[[RequestSearch], object] | None = None
    """Called after every step of its search."""
    found: list[TokenHypothesis] | None = None
    timings: Timings | None = None
    error: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.found is not None or self.error is not None

    def result(self) -> tuple[list[TokenHypothesis], Timings]:
        """What was found, once it has ended; raises what ended it otherwise."""
        if self.error is not None:
            raise self.error
        assert self.found is not None and self.timings is not None
        return self.found, self.timings

    def end_early(self) -> bool:
        """End a request that has not begun, if its watch says so. Returns whether it did."""
        if reason := self.watch.reason():
            self.found, self.timings = not_begun(reason, 1)
        return self.ended


class ContinuousBatch:
    """Jobs that are decoded together, owned by one thread.

    At most ``rows`` rows at once (one job alone may have more), within the memory that is free, and with sources of at
    most ``tokens`` tokens together, padding included. ``check`` is called before every step; raising ends all jobs.
    """

    def __init__(
        self, engine: Engine, model: ModelSpec, rows: int, tokens: int | None = None, check: Check = lambda: None
    ) -> None:
        self._engine, self._model, self._check = engine, model, check
        self._rows, self._tokens = rows, tokens
        self._waiting: deque[Job] = deque()
        self._groups: list[_Group] = []

    @property
    def jobs(self) -> list[Job]:
        """Those that are under way, and those that wait."""
        return [seat.job for group in self._groups for seat in group.seats] + list(self._waiting)

    def add(self, job: Job) -> None:
        """Let ``job`` wait for its turn; it joins at the next step where there is room."""
        self._waiting.append(job)

    def fits(self, job: Job) -> bool:
        """Whether there is room for ``job`` beside all others, or there are no others."""
        return self._fit([*self.jobs, job])

    def _fit(self, jobs: Sequence[Job]) -> bool:
        if len(jobs) == 1:
            return True
        longest = max(len(job.request.source.ids) for job in jobs)
        rows = sum(job.options.rows for job in jobs)
        return (
            rows <= self._rows
            and (self._tokens is None or len(jobs) * longest <= self._tokens)
            and rows * max(map(self._bytes_a_row, jobs)) <= memory_budget()
        )

    def step(self) -> list[Job]:
        """Let jobs join, and every run take a step. Returns the jobs that ended, in any order."""
        present = self.jobs
        try:
            self._check()
            self._admit()
        except Exception as error:  # the session is closed: whatever it is, it is every job's
            self._waiting.clear()
            self._groups.clear()
            for job in present:
                job.error = error
            return present
        for group in self._groups:
            group.step()
        self._groups = [group for group in self._groups if group.seats]
        return [job for job in present if job.ended]

    def _bytes_a_row(self, job: Job) -> int:
        """What the rows of all take at most, since the buffers of a run are as long as the longest needs them."""
        needed = bytes_of(self._model, len(job.request.source.ids), job.request.limit, job.options)
        return -(-needed // job.options.rows)

    def _admit(self) -> None:
        """Those who wait join in the order of their coming, as far as there is room for all until then."""
        waiting, self._waiting = self._waiting, deque()
        under_way = self.jobs
        admitted: list[Job] = []
        for job in waiting:
            if job.end_early():
                continue
            if not self._waiting and self._fit([*under_way, *admitted, job]):
                admitted.append(job)
            else:
                self._waiting.append(job)
        for jobs in _alike(admitted, self._model):
            self._join(jobs)

    def _join(self, jobs: list[Job]) -> None:
        """Let jobs of as many rows and as long prompts join a run: the one that there is, or a new one."""
        begin, rows = time.perf_counter(), jobs[0].options.rows
        try:
            sources = [job.request.source.ids for job in jobs]
            memory = (
                self._engine.encode_source(*right_pad(sources, self._model.pad_source)) if self._model.encoder else None
            )
            group = next((group for group in self._groups if group.rows == rows and group.open), None)
            if group is None:
                run = self._engine.open_run(rows, 2 * rows)
                group = _Group(run or _ClosedRun(self._engine, rows, 2 * rows), rows, run is not None)
                self._groups.append(group)
            seats = [_Seat(self._engine, self._model, memory, i, job, begin) for i, job in enumerate(jobs)]
            group.join(memory, seats)
        except Exception as error:
            for job in jobs:
                job.error = error


def fill(batch: ContinuousBatch, jobs: Iterable[Job], ahead: int) -> Iterator[Job]:
    """Jobs in their order, each once it has ended; a place that becomes free is the next one's.

    At most ``ahead`` jobs are read that have not been given back. Where reading fails, it raises in its turn: once all
    that were read before have been given back.
    """
    rest, pending = or_error(jobs), deque[Job]()
    coming = next(rest, None)
    while pending or coming is not None:
        while isinstance(coming, Job) and len(pending) < ahead and batch.fits(coming):
            batch.add(coming)
            pending.append(coming)
            coming = next(rest, None)
        if isinstance(coming, Exception) and not pending:
            raise coming
        if not pending[0].ended:
            batch.step()
        while pending and pending[0].ended:
            yield pending.popleft()


class _Seat:
    """A job in a run: its search, and what its rows are to read next. ``begin``: when its source began to be read."""

    def __init__(self, engine: Engine, model: ModelSpec, memory: Memory, place: int, job: Job, begin: float) -> None:
        self.job, self.prompt = job, prompt_of(model, job.request)
        self.search = request_search(engine, model, memory, place, job.request, job.options)
        if job.options.plain and job.options.rows == 1 and not job.request.prefix:
            self.search = GreedyRequest(self.search.task)
        self.ids: Ids = np.full(job.options.rows, self.prompt[-1])
        self.parents: Ids = np.arange(job.options.rows)
        self._begin, self._first, self._mates = begin, 0.0, 0

    def advance(self, best: Candidates, logits: Floats | None, mates: int) -> None:
        """Take a step, of whose consequences only this job has to suffer."""
        try:
            self.search.advance(best, logits)
            self._mates = max(self._mates, mates)
            self._first = self._first or time.perf_counter() - self._begin
            if reason := self.job.watch.reason():
                self.search.interrupt(reason)
            self._place()
            if self.job.on_step is not None:
                self.job.on_step(self.search)
            if not self.search.live:
                self.job.found = self.search.results()
                total = time.perf_counter() - self._begin
                self.job.timings = Timings(first_token=self._first, total=total, batch=self._mates)
        except Exception as error:
            self.job.error = error

    def _place(self) -> None:
        """What lives goes into its rows; those that are idle read token 0."""
        self.ids = np.zeros(len(self.ids), np.int64)
        self.parents = np.arange(len(self.ids))
        for live in self.search.live:
            self.ids[live.row], self.parents[live.row] = live.tokens[-1], live.parent


class _Group:
    """A run and who sits in it, in the order of its sentences."""

    def __init__(self, run: OpenRun, rows: int, open_: bool) -> None:
        self.run, self.rows, self.open = run, rows, open_
        self.seats: list[_Seat] = []
        self.steps = 0

    def join(self, memory: Memory, seats: list[_Seat]) -> None:
        prompts = np.array([seat.prompt for seat in seats], np.int64)
        limit = max(seat.search.task.limit for seat in seats)
        self.run.join(memory, prompts, capacity(prompts.shape[1], limit))
        self.seats += seats

    def step(self) -> None:
        """One call of the engine for all; then each by itself, and who has ended leaves."""
        try:
            best, logits = self._call()
        except Exception as error:
            for seat in self.seats:
                seat.job.error = error
            self.seats = []
            return
        for place, seat in enumerate(self.seats):
            own = slice(place * self.rows, (place + 1) * self.rows)
            seat.advance(
                Candidates(best.log_probs[own], best.ids[own]), None if logits is None else logits[own], len(self.seats)
            )
        live = np.array([not seat.job.ended for seat in self.seats])
        if not live.all():
            self._leave(places_kept(live))

    def _call(self) -> tuple[Candidates, Floats | None]:
        first_rows = np.arange(len(self.seats)) * self.rows
        ids = np.concatenate([seat.ids for seat in self.seats])
        parents = np.concatenate([seat.parents + row for seat, row in zip(self.seats, first_rows, strict=True)])
        best = self.run.step(ids, parents)
        refuse_nan(best.log_probs, self.steps)
        self.steps += 1
        reads = any(seat.search.task.reads_logits for seat in self.seats)
        return best, self.run.last_logits() if reads else None

    def _leave(self, places: Ids) -> None:
        self.seats = [self.seats[place] for place in places]
        if self.seats:
            self.run.keep(places)


class _ClosedRun:
    """A :class:`~edgewise.runtime.engine.DecoderRun` as a run that sentences join once."""

    def __init__(self, engine: Engine, rows: int, candidates: int) -> None:
        self._engine, self._rows, self._candidates = engine, rows, candidates
        self._run: DecoderRun | None = None
        self._prompts: Ids | None = None

    def join(self, memory: Memory, prompts: Ids, capacity: int) -> None:
        self._run = self._engine.start(memory, len(prompts), self._rows, capacity, self._candidates)
        self._prompts = prompts

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        assert self._run is not None
        if self._prompts is not None:
            prompts, self._prompts = self._prompts, None
            return self._run.prefill(prompts)
        return self._run.step(ids, parents)

    def keep(self, sentences: Ids) -> None:
        assert self._run is not None
        self._run.keep(sentences)

    def last_logits(self) -> Floats:
        assert self._run is not None
        return self._run.last_logits()


def _alike(jobs: Iterable[Job], model: ModelSpec) -> list[list[Job]]:
    """Jobs by their number of rows and the length of their prompts, in the order of their coming."""
    found: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        found.setdefault((job.options.rows, len(prompt_of(model, job.request))), []).append(job)
    return list(found.values())
