"""Threads that each work on a continuous batch, fed from one queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from ..errors import EngineError
from .continuous import ContinuousBatch, Job

Done = Callable[[Job], object]
"""Called with a job that has ended, in the thread that ended it."""

CLOSED = "this AsyncSession is closed: make another around the session"
NO_THREAD = "the system gives no thread to decode in: lower the number of workers, or end other threads"


@dataclass
class _Turn:
    """What a pool is given to begin. It keeps even what it found no thread for, and that must not count."""

    counts: bool = False


class BatchWorkers:
    """At most ``count`` threads; ``new_batch`` makes the batch of one that begins to work.

    A new job wakes a thread that rests, if one does; those at work take what waits between two steps, as far as there
    is room. A thread rests when nothing is left for it.
    """

    def __init__(self, new_batch: Callable[[], ContinuousBatch], count: int) -> None:
        self._new_batch, self._count = new_batch, count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="edgewise-batch")
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Job, Done]] = deque()
        self._working, self._closed = 0, False

    def submit(self, job: Job, done: Done) -> None:
        """Let ``job`` be decoded.

        Raises:
            EngineError: these workers are closed, or none works and the system gives no thread.
        """
        with self._lock:
            if self._closed:
                raise EngineError(CLOSED)
            if self._working < self._count:
                self._wake()
            self._waiting.append((job, done))

    def close(self) -> None:
        """Take no more, and wait for what there is. Twice is once."""
        with self._lock:
            self._closed = True
        self._pool.shutdown()

    def _wake(self) -> None:
        """Let one more thread work. Where the system gives none, those at work have to do; the lock is held."""
        turn = _Turn()
        try:
            self._pool.submit(self._work, turn)
        except RuntimeError as error:
            if not self._working:
                raise EngineError(NO_THREAD) from error
            return
        turn.counts = True
        self._working += 1

    def _work(self, turn: _Turn) -> None:
        with self._lock:
            if not turn.counts:
                return
        listening: dict[Job, Done] = {}
        try:
            batch = self._new_batch()
            while self._take(batch, listening):
                for job in batch.step():
                    _tell(job, listening.pop(job))
        except Exception as error:  # without a batch, or where it breaks, nobody may wait for ever
            self._give_up(error, listening)

    def _take(self, batch: ContinuousBatch, listening: dict[Job, Done]) -> bool:
        """Move what has room from the queue into ``batch``. Returns whether it has anything to do."""
        ended: list[tuple[Job, Done]] = []
        try:
            with self._lock:
                ended += [(job, done) for job, done in self._waiting if job.end_early()]
                self._waiting = deque((job, done) for job, done in self._waiting if not job.ended)
                while self._waiting and batch.fits(self._waiting[0][0]):
                    job, done = self._waiting.popleft()
                    listening[job] = done
                    batch.add(job)
                goes_on = bool(batch.jobs)
                if not goes_on:
                    self._working -= 1
                return goes_on
        finally:  # where the batch breaks, these are in no queue any more
            for job, done in ended:
                _tell(job, done)

    def _give_up(self, error: Exception, listening: dict[Job, Done]) -> None:
        with self._lock:
            self._working -= 1
            refused, self._waiting = self._waiting, deque()
        for job, done in (*listening.items(), *refused):
            job.error = error
            _tell(job, done)


def _tell(job: Job, done: Done) -> None:
    """Whoever asked may have gone, event loop and all; that is nothing to the others."""
    with suppress(Exception):
        done(job)
