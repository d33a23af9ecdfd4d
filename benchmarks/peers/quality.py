"""How good what a system makes is, measured once a system when everything is prepared: no clock runs here.

S1 and S2 are judged where they are timed; see :mod:`.run`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError, MissingExtraError, VerificationError
from .catalogue import systems_of
from .cell import Vectors
from .places import Places
from .prepare import REFERENCE, SOURCES
from .prepare_text import LOG_PROBS, SCORED
from .prepare_vectors import JUDGED, JUDGEMENTS, VECTORS
from .processes import run_cell
from .results import Setting, agreement
from .systems import System
from .workloads import Workload

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 32
LARGEST_EXCESS = 1e-3
"""By which share of PyTorch's perplexity that of a float32 system may differ."""
LEAST_COSINE = 0.9999
"""Mean cosine to PyTorch that float32 systems reach; they are 1.00000 apart from rounding, int8 ones below 0.9999."""


def judge(places: Places, workload: Workload, say: Callable[[str], None]) -> None:
    """Judge every system that has not been judged; a system that fails is told and left without.

    Raises:
        VerificationError: a system that computes in float32 makes something else than PyTorch.
    """
    for system in systems_of(workload.name).values():
        file = quality_file(places, workload.name, system.name)
        if file.is_file():
            continue
        try:
            found = _JUDGES[workload.kind](places, workload, system)
        except (EngineError, MissingExtraError) as error:
            say(f"{workload.name} {system.name} is not judged: {error}")
            continue
        say(f"{workload.name} {system.name}: " + ", ".join(f"{name} {value:.5f}" for name, value in found.items()))
        refuse_another_network(places, workload, system, found)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))


def quality_file(places: Places, workload: str, system: str) -> Path:
    """Where the quality of a system is kept."""
    return places.file(workload, "quality") / f"{system}.json"


def quality_of(places: Places, workload: str, system: str) -> dict[str, float]:
    """What :func:`judge` found, or nothing."""
    file = quality_file(places, workload, system)
    found: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def refuse_another_network(places: Places, workload: Workload, system: System, found: dict[str, float]) -> None:
    """Refuse a system of float32 whose vectors or probabilities are not PyTorch's.

    Raises:
        VerificationError: it is one.
    """
    if system.exact and workload.kind == "generate":
        expected = perplexity(json.loads(places.file(workload.name, LOG_PROBS).read_text()))
        if not abs(found.get("perplexity", expected) / expected - 1) <= LARGEST_EXCESS:
            raise VerificationError(
                f"{system.name} has a perplexity of {found['perplexity']:.3f}, expected PyTorch's, {expected:.3f}: it "
                "computes another network; convert it again"
            )
    if system.exact and workload.kind == "embed" and found["cosine"] < LEAST_COSINE:
        raise VerificationError(
            f"{system.name} gave vectors of mean cosine {found['cosine']:.5f} to PyTorch's, expected at least "
            f"{LEAST_COSINE} of float32: it computes another network; convert it again"
        )


def _judge_vectors(places: Places, workload: Workload, system: System) -> dict[str, float]:
    setting = Setting(workload=workload.name, threads=1, batch=BATCH, beam_size=1)
    judged = places.file(workload.name, JUDGED)
    answer = run_cell(places, system, setting, sources=judged, repeats=0, whole=True)
    assert answer.vectors is not None
    expected = np.load(places.file(workload.name, VECTORS), allow_pickle=False)
    scores = json.loads(places.file(workload.name, JUDGEMENTS).read_text())
    return {"cosine": mean_cosine(answer.vectors, expected), "Spearman": correlation(answer.vectors, scores)}


def _judge_text(places: Places, workload: Workload, system: System) -> dict[str, float]:
    setting = Setting(workload=workload.name, threads=1, batch=1, beam_size=1)
    files = {"sources": places.file(workload.name, SOURCES), "scored": places.file(workload.name, SCORED)}
    answer = run_cell(places, system, setting, repeats=0, whole=True, **files)
    assert answer.outputs is not None
    reference = json.loads(places.file(workload.name, REFERENCE).read_text())["1"]
    found = {"agree": agreement(answer.outputs, reference)}
    return found if answer.log_probs is None else {"perplexity": perplexity(answer.log_probs), **found}


def perplexity(log_probs: Sequence[Sequence[float]]) -> float:
    """Of texts whose tokens have these log-probabilities (nats), all tokens alike."""
    return float(np.exp(-np.mean(np.concatenate([np.array(row) for row in log_probs]))))


def mean_cosine(vectors: Vectors, expected: NDArray[np.float32]) -> float:
    """Mean over the rows ``(N, D)`` of the cosine of each with the row expected in its place."""
    return float(np.mean(np.sum(_unit(np.array(vectors)) * _unit(expected), axis=1)))


def correlation(vectors: Vectors, scores: Sequence[float]) -> float:
    """Spearman's, of the cosines of rows ``2i`` and ``2i + 1`` with ``scores``."""
    units = _unit(np.array(vectors))
    return spearman(np.sum(units[::2] * units[1::2], axis=1), np.array(scores))


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; equals share the mean of their ranks."""
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: NDArray[np.float64] = last - (counts - 1) / 2
    return means[places]


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


_JUDGES = {"generate": _judge_text, "embed": _judge_vectors}
