"""Timing an opened bundle: latency, throughput, time to first token, memory and size."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..runtime.session import Session
from .memory import peak_memory

Progress = Callable[[int, int, str], None]
"""Told how many of how many passes are done, and what comes next."""

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How texts are sent: ``beam_size`` is 0 for a model that does not decode."""

    name: str
    beam_size: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One workload. Times are milliseconds per request, a request being ``batch`` texts.

    ``first_token_ms``: until the first token, source encoding included, median; ``None`` without decoding.
    """

    workload: str
    batch: int
    requests: int
    p50_ms: float
    p90_ms: float
    first_token_ms: float | None
    tokens_per_second: float
    texts_per_second: float


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What was measured. ``model_bytes``: graphs and weights; ``peak_memory_bytes``: of the whole process, or ``None``.

    Tokens are those decoded, or for a model that does not decode those read.
    """

    name: str
    task: str
    target: str
    precision: str
    engine: dict[str, Any]
    texts: int
    repeats: int
    model_bytes: int
    peak_memory_bytes: int | None
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """For people."""
        memory = f"{self.peak_memory_bytes / 1e6:.0f} MB" if self.peak_memory_bytes else "unknown"
        engine = "{engine} {version}, {threads} threads".format(**self.engine)
        size = f"model {self.model_bytes / 1e6:.2f} MB, peak memory of the process {memory}"
        lines = [
            f"{self.name} {self.target}-{self.precision} on {engine}",
            f"{size}, {self.repeats} passes over {self.texts} texts",
            "",
            f"{'workload':<16}{'p50 ms':>9}{'p90 ms':>9}{'first ms':>10}{'tokens/s':>11}{'texts/s':>10}",
        ]
        return "\n".join([*lines, *map(_line, self.rows)])


def _line(row: Row) -> str:
    first = "-" if row.first_token_ms is None else f"{row.first_token_ms:.2f}"
    return (
        f"{row.workload:<16}{row.p50_ms:>9.2f}{row.p90_ms:>9.2f}{first:>10}"
        f"{row.tokens_per_second:>11.0f}{row.texts_per_second:>10.1f}"
    )


DECODING = (
    Workload(name="greedy b1", beam_size=1, batch=1),
    Workload(name="beam 5 b1", beam_size=5, batch=1),
    Workload(name=f"greedy b{BATCH}", beam_size=1, batch=BATCH),
)
ENCODING = (Workload(name="b1", beam_size=0, batch=1), Workload(name=f"b{BATCH}", beam_size=0, batch=BATCH))


def measure(
    session: Session,
    repeats: int = 5,
    texts: int = BATCH,
    progress: Progress | None = None,
    languages: Mapping[str, str] | None = None,
) -> BenchReport:
    """Warm up, then send the bundle's own reference captions ``repeats`` times in every workload.

    ``languages``: ``source`` and ``target`` of translations, where the bundle's own are not meant, or are none.

    Raises:
        InputError: the bundle does not know such a language, or has none by default where one is needed.
    """
    asked = texts_of(session, texts)
    workloads = DECODING if session.manifest.model.decoder else ENCODING
    rows = []
    for i, workload in enumerate(workloads):
        if progress:
            progress(i, len(workloads), workload.name)
        rows.append(run_workload(session, workload, asked, repeats, languages))
    return BenchReport(
        name=session.manifest.name,
        task=session.manifest.task,
        target=session.variant.target,
        precision=session.variant.precision,
        engine=session.engine.describe(),
        texts=len(asked),
        repeats=repeats,
        model_bytes=session.bundle.size(session.variant),
        peak_memory_bytes=peak_memory(),
        rows=tuple(rows),
    )


def texts_of(session: Session, count: int) -> list[str]:
    """``count`` texts: the bundle's reference captions, over and over.

    Raises:
        InputError: the bundle is made for speech.
    """
    if session.manifest.task == "transcribe":
        raise InputError(
            f"{session.manifest.name!r} is made to transcribe, and a bundle holds no speech to time it with: time "
            "session.transcribe on features of your own"
        )
    cases = session.bundle.cases().cases
    texts = [case.text for case in cases if case.text and case.name.startswith("caption-")]
    texts = texts or [case.text for case in cases if case.text and case.text.strip()]
    return [texts[i % len(texts)] for i in range(count)]


def run_workload(
    session: Session,
    workload: Workload,
    texts: Sequence[str],
    repeats: int,
    languages: Mapping[str, str] | None = None,
) -> Row:
    """Time one workload. Every request is measured by itself, at the caller's side; see :func:`measure`."""
    batches = [list(texts[i : i + workload.batch]) for i in range(0, len(texts), workload.batch)]
    for batch in batches:  # all of them, as an engine may prepare for every new shape
        _send(session, workload, batch, languages)
    seconds: list[float] = []
    first: list[float] = []
    tokens = 0
    for batch in batches * repeats:
        begin = time.perf_counter()
        sent = _send(session, workload, batch, languages)
        seconds.append(time.perf_counter() - begin)
        first += sent.first_token
        tokens += sent.tokens
    total = sum(seconds)
    return Row(
        workload=workload.name,
        batch=workload.batch,
        requests=len(seconds),
        p50_ms=percentile(seconds, 50) * 1e3,
        p90_ms=percentile(seconds, 90) * 1e3,
        first_token_ms=percentile(first, 50) * 1e3 if first else None,
        tokens_per_second=tokens / total,
        texts_per_second=len(texts) * repeats / total,
    )


@dataclass(frozen=True, kw_only=True)
class _Sent:
    tokens: int
    first_token: tuple[float, ...] = ()


def _send(session: Session, workload: Workload, batch: list[str], languages: Mapping[str, str] | None) -> _Sent:
    if not workload.beam_size:
        return _Sent(tokens=sum(len(encoding.tokens) for encoding in session.encode(batch, batch_size=len(batch))))
    shared: Any = {**(languages or {}), "beam_size": workload.beam_size, "batch_size": len(batch)}
    decode = session.translate if session.manifest.task == "translate" else session.generate
    found = decode(batch, **shared)
    return _Sent(
        tokens=sum(len(generation.tokens) for generation in found),
        first_token=tuple(generation.timings.first_token for generation in found),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
