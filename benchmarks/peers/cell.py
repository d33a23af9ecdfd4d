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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeAlias

from ..memory import peak_memory

Tokens: TypeAlias = list[list[int]]


class Decoder(Protocol):
    """What an adapter's ``open_model(order)`` returns."""

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request: the best hypothesis of every source, its end token left out, of at most ``limit`` tokens.

        ``sources`` end with the end token. A beam of 1 is greedy search.
        """
        ...

    def versions(self) -> dict[str, str]:
        """The libraries at work and their versions."""
        ...


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a measuring process is told.

    ``sources``: a JSON file of token ids. ``timed``: how many of them a timed pass decodes. ``whole``: decode all of
    them once, too, for quality. ``length_penalty``: an exponent, in each system's own formula. ``answer``: where to
    write the :class:`Answer`.
    """

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

    @property
    def end_id(self) -> int:
        """The token that ends a sequence."""
        return self.special_ids["end"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What it found. Times are seconds.

    ``seconds``: of every timed pass, each of ``sentences`` sources and ``tokens`` new tokens; ``cpu_seconds``: what all
    of them together took of processors, which tells how many threads were really at work. ``start``: from the birth
    of the process to its first line, ``None`` where the system does not tell. ``outputs``: tokens of all sources, in
    their order, where they were asked for.
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


@dataclass(frozen=True, kw_only=True)
class Request:
    """Sources that are decoded together: ``places`` are theirs in the workload."""

    places: list[int]
    sources: Tokens
    limit: int


def cut(sources: Tokens, order: Order) -> list[Request]:
    """Requests of at most ``order.batch`` sources of similar length, the shortest first."""
    by_length = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    requests = []
    for begin in range(0, len(by_length), order.batch):
        places = by_length[begin : begin + order.batch]
        longest = len(sources[places[-1]])
        requests.append(
            Request(
                places=places,
                sources=[sources[i] for i in places],
                limit=order.exact_tokens or longest + order.extra_tokens,
            )
        )
    return requests


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
    system: Decoder = adapter.open_model(order)
    marks.append(time.perf_counter())
    system.decode(requests[0].sources, order.beam_size, requests[0].limit)
    marks.append(time.perf_counter())
    outputs = _decode_all(system, order, requests, len(sources)) if order.whole else None
    chosen = requests[:: max(1, len(sources) // order.timed)] if order.timed < len(sources) else requests
    seconds, cpu_seconds, tokens = _timed_passes(system, order, chosen)
    imported, loaded, first = (b - a for a, b in pairwise(marks))
    return Answer(
        start=start,
        imported=imported,
        loaded=loaded,
        first_output=first,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        sentences=sum(len(request.places) for request in chosen),
        tokens=tokens,
        peak_memory_bytes=peak_memory(),
        versions={"python": sys.version.split()[0], **system.versions()},
        outputs=outputs,
    )


def _timed_passes(system: Decoder, order: Order, requests: Sequence[Request]) -> tuple[list[float], float, int]:
    """Seconds of every timed pass, processor seconds of all, and the tokens of one.

    Before them all requests have been decoded once: engines prepare for every new shape.
    """
    if not order.whole:
        _decode_pass(system, order, requests)
    seconds, tokens, cpu = [], 0, time.process_time()
    for _ in range(order.repeats):
        begin = time.perf_counter()
        tokens = _decode_pass(system, order, requests)
        seconds.append(time.perf_counter() - begin)
    return seconds, time.process_time() - cpu, tokens


def _decode_pass(system: Decoder, order: Order, requests: Sequence[Request]) -> int:
    """Decode every request. Returns how many new tokens that made."""
    tokens = 0
    for request in requests:
        rows = system.decode(request.sources, order.beam_size, request.limit)
        _check_lengths(rows, order)
        tokens += sum(map(len, rows))
    return tokens


def _decode_all(system: Decoder, order: Order, requests: Sequence[Request], count: int) -> Tokens:
    outputs: Tokens = [[] for _ in range(count)]
    for request in requests:
        rows = system.decode(request.sources, order.beam_size, request.limit)
        _check_lengths(rows, order)
        for place, row in zip(request.places, rows, strict=True):
            outputs[place] = row
    return outputs


def _check_lengths(rows: Tokens, order: Order) -> None:
    """A system that stops early must not be timed as if it had not."""
    lengths = sorted({len(row) for row in rows})
    if order.exact_tokens and lengths != [order.exact_tokens]:
        raise ValueError(f"{order.adapter} gave {lengths} tokens a source, expected exactly {order.exact_tokens}")


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
