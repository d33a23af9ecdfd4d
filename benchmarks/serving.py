"""What many callers of one process get: ``python -m edgewise.benchmarks.serving [BUNDLE]``.

Every caller sends one text, waits for its answer and sends the next. ``in turn``: a lock lets one text through
``Session`` at a time, what an application does that has nothing else. ``joined``: ``AsyncSession``, whose callers join
the batch that is under way. Both work on the same texts in the same process, round by round in turns; what is told is
the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import EdgewiseError
from ..runtime.asynchronous import AsyncSession
from ..runtime.load import load
from ..runtime.session import Session
from .bench import percentile, texts_of

CALLERS = (1, 4, 16, 64)
EACH = 4
"""Texts that a caller sends."""
Send = Callable[[str], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Served:
    """Medians over rounds: texts a second, and milliseconds that a caller waits for an answer."""

    way: str
    callers: int
    texts_per_second: float
    p50_ms: float
    p95_ms: float


async def serve(session: Session, callers: Sequence[int], rounds: int, beam_size: int) -> list[Served]:
    """Every number of ``callers`` in both ways, after one round that is not counted."""
    asked: Any = {"beam_size": beam_size}
    translates = session.manifest.task == "translate"
    alone: Callable[..., Any] = session.translate if translates else session.generate
    lock = asyncio.Lock()
    async with AsyncSession(session, workers=1) as together:
        joined = together.translate if translates else together.generate

        async def in_turn(text: str) -> Any:
            async with lock:
                return await asyncio.to_thread(alone, text, **asked)

        ways: dict[str, Send] = {"in turn": in_turn, "joined": lambda text: joined(text, **asked)}
        found = []
        for count in callers:
            texts = texts_of(session, count * EACH)
            seen = [{name: await _round(send, texts, count) for name, send in ways.items()} for _ in range(rounds + 1)]
            found += [_served(name, count, [each[name] for each in seen[1:]]) for name in ways]
        return found


async def _round(send: Send, texts: Sequence[str], callers: int) -> tuple[float, list[float]]:
    """Seconds of all, and those that each text took."""
    waited = list[float]()

    async def call(own: Sequence[str]) -> None:
        for text in own:
            begin = time.perf_counter()
            await send(text)
            waited.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    await asyncio.gather(*(call(texts[i::callers]) for i in range(callers)))
    return time.perf_counter() - begin, waited


def _served(way: str, callers: int, rounds: Sequence[tuple[float, list[float]]]) -> Served:
    return Served(
        way=way,
        callers=callers,
        texts_per_second=median(len(waited) / seconds for seconds, waited in rounds),
        p50_ms=1e3 * median(percentile(waited, 50) for _, waited in rounds),
        p95_ms=1e3 * median(percentile(waited, 95) for _, waited in rounds),
    )


def table(found: Sequence[Served]) -> Iterator[str]:
    """Markdown, both ways beside each other."""
    yield "| callers | in turn, texts/s | joined, texts/s | ratio | in turn, p50 and p95 ms | joined, p50 and p95 ms |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for one, other in zip(found[::2], found[1::2], strict=True):
        yield (
            f"| {one.callers} | {one.texts_per_second:.1f} | {other.texts_per_second:.1f} | "
            f"{other.texts_per_second / one.texts_per_second:.2f} | {one.p50_ms:.0f}, {one.p95_ms:.0f} | "
            f"{other.p50_ms:.0f}, {other.p95_ms:.0f} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgewise.benchmarks.serving", description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="default: the one inside the package")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS)
    told = parser.parse_args(argv)
    try:
        with load(told.bundle, told.target, told.precision, threads=1) as session:
            found = asyncio.run(serve(session, told.callers, told.rounds, told.beam_size))
    except EdgewiseError as error:
        print(f"serving: error: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
