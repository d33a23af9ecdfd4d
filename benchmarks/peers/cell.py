"""One measuring process: ``python -m edgewise.benchmarks.peers.cell ORDER``, ORDER being JSON.

It runs in the environment of the system it measures, so this file imports nothing but Python's own library, and the
adapter. All that differs between systems is in the adapters; cutting into requests, warming up and timing are here.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..memory import peak_memory
from .workloads import Kind

Tokens: TypeAlias = list[list[int]]
Vectors: TypeAlias = list[list[float]]


class Decoder(Protocol):
    """What an adapter's ``open_model(order)`` returns, where the workload makes tokens."""

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request: the best hypothesis of every source, its end token left out, of at most ``limit`` tokens.

        ``sources`` end with the end token. A beam of 1 is greedy search.
        """
        ...

    def versions(self) -> dict[str, str]:
        """The libraries at work and their versions."""
        ...


class Generator(Decoder, Protocol):
    """What it returns where the workload continues prompts."""

    def log_probs(self, texts: Tokens) -> Vectors | None:
        """Of every token but the first of every text, given those before it (nats); ``None`` if it does not tell."""
        ...


class Embedder(Protocol):
    """What it returns where the workload makes vectors."""

    def embed(self, sources: Tokens) -> Vectors:
        """One request: a pooled and normalized vector of every source, whose special tokens are there."""
        ...

    def versions(self) -> dict[str, str]:
        """The libraries at work and their versions."""
        ...


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a measuring process is told.

    ``sources``: a JSON file of token ids. ``timed``: how many of them a timed pass takes. ``whole``: take all of
    them once, too, for quality. ``length_penalty``: an exponent, in each system's own formula. ``answer``: where to
    write the :class:`Answer`. ``scored``: a JSON file of token ids to tell the probabilities of, or nothing.
    """

    kind: Kind
    adapter: str
    model: str
    sources: str
    answer: str
    threads: int
    batch: int
    beam_size: int
    exact_tokens: int | None
    extra_tokens: int
    timed: int
    repeats: int
    whole: bool
    length_penalty: float
    special_ids: dict[str, int]
    settings: dict[str, str] = field(default_factory=dict)
    scored: str = ""

    @property
    def end_id(self) -> int:
        """The token that ends a sequence."""
        return self.special_ids["end"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What it found. Times are seconds.

    ``seconds``: of every timed pass, each of ``sentences`` sources and ``tokens`` new tokens; ``cpu_seconds``: what all
    of them together took of processors, which tells how many threads were really at work. ``start``: from the birth
    of the process to its first line, ``None`` where the system does not tell. ``outputs`` or ``vectors``: what it made
    of all sources, in their order, where they were asked for. Where vectors are made, ``tokens`` are the sources'.
    ``first_token_seconds`` and ``first_token_cpu_seconds``: the same of passes that ended with the first new token, in
    a workload that generates. ``log_probs``: of every token but the first of every scored text, where the system tells.
    """

    start: float | None
    imported: float
    loaded: float
    first_output: float
    seconds: list[float]
    cpu_seconds: float
    sentences: int
    tokens: int
    peak_memory_bytes: int | None
    versions: dict[str, str]
    outputs: Tokens | None
    vectors: Vectors | None = None
    first_token_seconds: list[float] = field(default_factory=list)
    first_token_cpu_seconds: float = 0.0
    log_probs: Vectors | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """Sources that are decoded together: ``places`` are theirs in the workload."""

    places: list[int]
    sources: Tokens
    limit: int


Rows: TypeAlias = list[Any]
"""Tokens or a vector of every source, as the workload is."""
Ask: TypeAlias = Callable[[Request], Rows]


def cut(sources: Tokens, order: Order) -> list[Request]:
    """Requests of at most ``order.batch`` sources of similar length, the shortest first."""
    requests = []
    for places in requests_of(sources, order.batch):
        longest = len(sources[places[-1]])
        requests.append(
            Request(
                places=places,
                sources=[sources[i] for i in places],
                limit=order.exact_tokens or longest + order.extra_tokens,
            )
        )
    return requests


def requests_of(sources: Tokens, batch: int) -> list[list[int]]:
    """Places of sources that go together, ``batch`` at most, of similar length, the shortest first."""
    by_length = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    return [by_length[begin : begin + batch] for begin in range(0, len(by_length), batch)]


def measure(order: Order, start: float | None = None) -> Answer:
    """Open the system, and time it.

    Raises:
        ValueError: a system did not decode as many tokens as it was told to.
    """
    sources: Tokens = json.loads(Path(order.sources).read_text())
    requests = cut(sources, order)
    marks = [time.perf_counter()]
    adapter = importlib.import_module(f".adapters.{order.adapter}", __package__)
    marks.append(time.perf_counter())
    system = adapter.open_model(order)
    ask = asking(system, order)
    marks.append(time.perf_counter())
    ask(_shortened(requests[:1], order)[0])
    marks.append(time.perf_counter())
    outputs = _all_outputs(ask, requests, len(sources)) if order.whole else None
    chosen = requests[:: max(1, len(sources) // order.timed)] if order.timed < len(sources) else requests
    every, first = Clock(), Clock()
    rows = _timed_passes(ask, order, chosen, every, first)
    imported, loaded, first_output = (b - a for a, b in pairwise(marks))
    return Answer(
        start=start,
        imported=imported,
        loaded=loaded,
        first_output=first_output,
        seconds=every.seconds,
        cpu_seconds=every.cpu_seconds,
        first_token_seconds=first.seconds,
        first_token_cpu_seconds=first.cpu_seconds,
        sentences=sum(len(request.places) for request in chosen),
        tokens=sum(len(row) for request in chosen for row in request.sources)
        if order.kind == "embed"
        else sum(map(len, rows)),
        peak_memory_bytes=peak_memory(),
        versions={"python": sys.version.split()[0], **system.versions()},
        outputs=None if order.kind == "embed" else outputs,
        vectors=outputs if order.kind == "embed" else None,
        log_probs=system.log_probs(json.loads(Path(order.scored).read_text())) if order.scored else None,
    )


def asking(system: Any, order: Order) -> Ask:
    """How to put a request to what an adapter opened."""
    if order.kind == "embed":
        return lambda request: system.embed(request.sources)

    def decode(request: Request) -> Tokens:
        rows: Tokens = system.decode(request.sources, order.beam_size, request.limit)
        _check_lengths(rows, order, request.limit)
        return rows

    return decode


def _shortened(requests: Sequence[Request], order: Order) -> list[Request]:
    """The requests for their first token alone, where that is what a user of the workload waits for."""
    return [replace(request, limit=1) if order.kind == "generate" else request for request in requests]


@dataclass(kw_only=True)
class Clock:
    """Seconds of passes, and what all of them took of processors."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def time(self, ask: Ask, requests: Sequence[Request]) -> Rows:
        """One pass over ``requests``. Returns what came of it."""
        cpu, begin = time.process_time(), time.perf_counter()
        rows = [row for request in requests for row in ask(request)]
        self.seconds.append(time.perf_counter() - begin)
        self.cpu_seconds += time.process_time() - cpu
        return rows


def _timed_passes(ask: Ask, order: Order, requests: Sequence[Request], every: Clock, first: Clock) -> Rows:
    """What the last pass gave. Before the first, all requests have been put once: engines prepare for every new shape.

    ``every`` times whole requests, ``first`` the first tokens alone of a workload that generates, in turn.
    """
    rows: Rows = []
    if not order.whole:
        Clock().time(ask, requests)
    for _ in range(order.repeats):
        if order.kind == "generate":
            first.time(ask, _shortened(requests, order))
        rows = every.time(ask, requests)
    return rows


def _all_outputs(ask: Ask, requests: Sequence[Request], count: int) -> Rows:
    """What comes of all sources, in their order."""
    outputs: Rows = [[] for _ in range(count)]
    for request in requests:
        for place, row in zip(request.places, ask(request), strict=True):
            outputs[place] = row
    return outputs


def _check_lengths(rows: Tokens, order: Order, limit: int) -> None:
    """A system that stops early must not be timed as if it had not."""
    lengths = sorted({len(row) for row in rows})
    if order.exact_tokens and lengths != [limit]:
        raise ValueError(f"{order.adapter} gave {lengths} tokens a source, expected exactly {limit}")


def until_end(row: Sequence[int], end_id: int) -> list[int]:
    """``row`` up to its first end token."""
    tokens = list(row)
    return tokens[: tokens.index(end_id)] if end_id in tokens else tokens


def seconds_since_birth() -> float | None:
    """How long ago this process began; only Linux tells."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))


def main(argv: Sequence[str]) -> None:
    """Do what the order says, and write the answer."""
    start = seconds_since_birth()
    order = Order(**json.loads(argv[0]))
    Path(order.answer).write_text(json.dumps(asdict(measure(order, start))))


if __name__ == "__main__":
    main(sys.argv[1:])
