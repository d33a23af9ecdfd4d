"""The accuracy gate: how much a quantized variant may lose against float32, and how sure the number is.

The metric is corpus BLEU (sacreBLEU, cased, 13a). The interval is a paired bootstrap over sentences (Koehn 2004): both
systems are scored on the same resampled sentences, and the interval holds the middle 95 % of the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GateError, InputError
from ..runtime.session import Session

SAMPLES = 1000
"""Bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant on the evaluation text: BLEU, what it lost against fp32 of its target, and the 95 % interval."""

    variant: str
    bleu: float
    drop: float
    low: float
    high: float
    same_text: float
    """Share of sentences whose translation equals that of fp32."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def translate_all(
    session: Session,
    sources: Sequence[str],
    progress: Callable[[int, int], None],
    languages: Mapping[str, str] | None = None,
) -> list[str]:
    """Translations by the bundle's own decoding defaults, in order; ``languages``: ``source`` and ``target``."""
    output: list[str] = []
    named: Any = languages or {}
    for start in range(0, len(sources), 64):
        output += [result.text for result in session.translate(list(sources[start : start + 64]), **named)]
        progress(len(output), len(sources))
    return output


def compare(variant: str, ours: Sequence[str], baseline: Sequence[str], references: Sequence[str]) -> Row:
    """A row of the gate's table: ``ours`` beside fp32's ``baseline`` against the ``references``.

    Raises:
        InputError: the lists differ in length, or are empty.
    """
    if not references or len({len(ours), len(baseline), len(references)}) != 1:
        counts = (len(ours), len(baseline), len(references))
        raise InputError(f"translations, baseline and references must be equally many and some, got {counts}")
    statistics = [_statistics(output, references) for output in (ours, baseline)]
    every = np.arange(len(references))[None]
    rng = np.random.default_rng(12345)
    resampled = rng.integers(0, len(references), (SAMPLES, len(references)))
    scores, drops = ([_scores(s, rows) for s in statistics] for rows in (every, resampled))
    low, high = np.percentile(drops[1] - drops[0], [2.5, 97.5])
    return Row(
        variant=variant,
        bleu=float(scores[0][0]),
        drop=float(scores[1][0] - scores[0][0]),
        low=float(low),
        high=float(high),
        same_text=float(np.mean([a == b for a, b in zip(ours, baseline, strict=True)])),
    )


def check(rows: Sequence[Row], max_drop: float) -> None:
    """Refuse a build in which any variant lost more than ``max_drop`` BLEU.

    Raises:
        GateError: names each variant that did, its loss and its interval.
    """
    fallen = [row for row in rows if row.drop > max_drop]
    if fallen:
        lost = "; ".join(f"{r.variant} lost {r.drop:.2f} BLEU (95 % {r.low:.2f} to {r.high:.2f})" for r in fallen)
        raise GateError(f"{lost}, at most {max_drop} allowed: keep a higher precision, or raise --max-drop knowingly")


def table(rows: Sequence[Row]) -> str:
    """The rows for people to read."""
    head = f"{'variant':<16} {'BLEU':>6} {'lost':>6}   {'95 % interval':<16} {'same text':>9}"
    lines = [
        f"{r.variant:<16} {r.bleu:6.2f} {r.drop:6.2f}   {f'{r.low:+.2f} to {r.high:+.2f}':<16} {r.same_text:9.1%}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def signature() -> str:
    """sacreBLEU's signature of the metric."""
    bleu = _bleu()
    bleu.corpus_score(["a"], [["a"]])
    return str(bleu.get_signature())


def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU()


def _statistics(output: Sequence[str], references: Sequence[str]) -> NDArray[np.int64]:
    """BLEU's counts a sentence: they add up to those of any set of sentences."""
    return np.array(_bleu()._extract_corpus_statistics(list(output), [list(references)]), np.int64)


def _scores(statistics: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Corpus BLEU of each row of sentence indices."""
    bleu = _bleu()
    sums = (statistics[rows].sum(axis=0) for rows in samples)
    return np.array([bleu._compute_score_from_stats(total.tolist()).score for total in sums])
