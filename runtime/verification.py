"""What a verification found: per case and in sum, for programs and for people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .bundle.quantized import Arithmetic
from .tolerances import AGREEMENT_FEWEST, STEADY_STEP, Tolerance

Outcome = Literal["same", "undecided", "different"]
"""A free-running search gave the reference's tokens; others, where the reference itself was undecided; or others."""

_UNSEEN = "damage within the bounds stays unseen"
_HEADER = ("case", "top-1", "logit", "log-prob", "greedy", "beam", "score", "ms")


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """One case. ``largest_*`` are absolute differences from the reference, in nats.

    ``positions``: how many times scores over the vocabulary (or the classes) were compared; at ``agreed`` of them the
    best token was the reference's, at ``undecided`` it was not, but the reference's margin lay within the tolerance.
    ``largest_score``: of the searches that gave the same tokens; ``largest_vector``: of a text's vector, as a share of
    its length; there the best is the case whose reference is nearest. ``greedy`` and ``beam`` are ``None`` without a
    decoder. ``faults`` say what is outside the tolerance; none: the case has passed.
    """

    name: str
    positions: int
    agreed: int
    undecided: int
    largest_logit: float
    largest_log_prob: float
    largest_fold: float
    largest_score: float
    largest_vector: float
    logit_squares: float
    logit_count: int
    greedy: Outcome | None
    beam: Outcome | None
    seconds: float
    faults: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OwnIntegers:
    """How near a quantized variant came to what its own integers give (:mod:`edgewise.runtime.bundle.quantized`).

    ``arithmetic``: which recorded answer the engine gives, ``"other"`` where it gives neither, ``"undecided"`` where
    there are too few steady ``steps`` to say. ``required``: ``"other"`` is a fault here. ``near`` steps lie within the
    bound, a share of ``expected`` at least should. ``median`` and ``largest``: differences in nats from the nearer
    answer.
    """

    arithmetic: Arithmetic | Literal["other", "undecided"]
    required: bool
    expected: float
    steps: int
    near: int
    median: float
    largest: float

    @property
    def share(self) -> float:
        """Share of the steps within the bound."""
        return self.near / max(1, self.steps)

    @property
    def fault(self) -> str | None:
        """What is wrong, if anything."""
        if self.arithmetic != "other" or not self.required:
            return None
        return (
            f"all cases: {self.near} of {self.steps} steady steps give what the variant's integers give within "
            f"{STEADY_STEP:g}, expected at least {self.expected:.0%}: weights were changed, or the engine is not exact"
        )

    def __str__(self) -> str:
        if self.arithmetic == "undecided":
            return f"own integers: undecided, {self.steps} steady steps are too few, {_UNSEEN}"
        activations = "" if self.arithmetic == "other" else f" with {self.arithmetic} activations"
        met = "" if self.arithmetic != "other" or self.required else ", another arithmetic than was recorded"
        return (
            f"own integers{activations}: {self.near} of {self.steps} steady steps within {STEADY_STEP:g} "
            f"(median {self.median:.1g}){met}"
        )


@dataclass(frozen=True, kw_only=True)
class GraphReport:
    """A graph that only some requests run on, at some steps (:mod:`edgewise.runtime.verify_graphs`).

    ``largest``: difference from a plain run in nats, or of attention weights from those of the sentence alone.
    """

    graph: str
    steps: int
    largest: float
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.graph} {self.steps}"


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """All cases of a bundle on one variant, engine and machine; ``own_integers``: only where they are recorded.

    ``graphs``: what was found of those that only some requests run on. ``reference``: what gave the recorded numbers.
    """

    name: str
    task: str
    target: str
    precision: str
    engine: dict[str, Any]
    tolerance: Tolerance
    cases: tuple[CaseReport, ...]
    own_integers: OwnIntegers | None
    graphs: tuple[GraphReport, ...]
    seconds: float
    reference: str = "PyTorch"

    @property
    def ok(self) -> bool:
        """Everything lies within the tolerance."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that does not, each with the name of its case or graph."""
        of_cases = (f"{case.name}: {fault}" for case in self.cases for fault in case.faults)
        of_graphs = (f"graph {found.graph}: {fault}" for found in self.graphs for fault in found.faults)
        return (*of_cases, *of_graphs, *self._faults_in_sum())

    @property
    def positions(self) -> int:
        """Positions compared in all cases."""
        return sum(case.positions for case in self.cases)

    @property
    def agreement(self) -> float:
        """Share of the positions whose best token is the reference's."""
        return sum(case.agreed for case in self.cases) / max(1, self.positions)

    @property
    def logit_rms(self) -> float:
        """Root mean square difference over all recorded logits."""
        count = sum(case.logit_count for case in self.cases)
        return math.sqrt(sum(case.logit_squares for case in self.cases) / max(1, count))

    @property
    def vector_rms(self) -> float:
        """Root mean square over the cases of how far a text's vector lies from the reference's, by its length."""
        return math.sqrt(sum(case.largest_vector**2 for case in self.cases) / max(1, len(self.cases)))

    def largest(self, what: Literal["logit", "log_prob", "fold", "score", "vector"]) -> float:
        """The largest difference in any case."""
        return max(float(getattr(case, f"largest_{what}")) for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        cases = [dataclasses.asdict(case) for case in self.cases]
        for case in cases:
            del case["logit_squares"], case["logit_count"]
        return {
            "name": self.name,
            "task": self.task,
            "target": self.target,
            "precision": self.precision,
            "reference": self.reference,
            "ok": self.ok,
            "engine": self.engine,
            "tolerance": dataclasses.asdict(self.tolerance),
            "sum": self._sums(),
            "own_integers": dataclasses.asdict(self.own_integers) if self.own_integers else None,
            "graphs": [dataclasses.asdict(graph) for graph in self.graphs],
            "faults": list(self.faults),
            "cases": cases,
        }

    def table(self) -> str:
        """Every case in a line, then the sums, then what is wrong."""
        rows = [_HEADER, *(_row(case) for case in self.cases)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        other = [] if self.reference == "PyTorch" else [f"  the reference: {self.reference}"]
        return "\n".join([*lines, "", self.summary(), *other, *(f"  FAILED {fault}" for fault in self.faults)])

    def summary(self) -> str:
        """One line: the variant, whether it passed, and how near it came."""
        verdict = "ok" if self.ok else f"FAILED ({len(self.faults)} faults)"
        passed = sum(not case.faults for case in self.cases)
        if self.task == "embed":
            return (
                f"{self.name} {self.target}-{self.precision}: {verdict}, {passed} of {len(self.cases)} cases, "
                f"{self.agreement:.2%} of {self.positions} vectors nearest to their own reference, largest difference "
                f"{self.largest('vector'):.2g} of a vector's length (rms {self.vector_rms:.2g}); "
                f"{self._own()}{self.seconds:.1f} s"
            )
        return (
            f"{self.name} {self.target}-{self.precision}: {verdict}, {passed} of {len(self.cases)} cases, "
            f"{self.agreement:.2%} of {self.positions} top-1 tokens, largest differences: logit "
            f"{self.largest('logit'):.2g} (rms {self.logit_rms:.2g}), log-probability {self.largest('log_prob'):.2g}, "
            f"score {self.largest('score'):.2g}; {self._searches()}"
            f"{self._own()}{self._graphs()}{self.seconds:.1f} s"
        )

    def _graphs(self) -> str:
        return f"steps of other graphs: {', '.join(map(str, self.graphs))}; " if self.graphs else ""

    def _searches(self) -> str:
        greedy = [case.greedy for case in self.cases if case.greedy]
        beam = [case.beam for case in self.cases if case.beam]
        if not greedy:
            return ""
        return f"same tokens: greedy {greedy.count('same')}, beam {beam.count('same')} of {len(greedy)}; "

    def _own(self) -> str:
        """How near its own integers came, or that nothing tells."""
        if self.own_integers:
            return f"{self.own_integers}; "
        return "" if self.precision == "fp32" else f"own integers: not recorded, {_UNSEEN}; "

    def _sums(self) -> dict[str, Any]:
        return {
            "cases": len(self.cases),
            "passed": sum(not case.faults for case in self.cases),
            "positions": self.positions,
            "agreement": self.agreement,
            "undecided": sum(case.undecided for case in self.cases),
            "greedy_same": sum(case.greedy == "same" for case in self.cases),
            "beam_same": sum(case.beam == "same" for case in self.cases),
            "largest_logit": self.largest("logit"),
            "logit_rms": self.logit_rms,
            "largest_log_prob": self.largest("log_prob"),
            "largest_fold": self.largest("fold"),
            "largest_score": self.largest("score"),
            "largest_vector": self.largest("vector"),
            "vector_rms": self.vector_rms,
            "seconds": self.seconds,
        }

    def _faults_in_sum(self) -> Iterator[str]:
        if not self.logit_rms <= self.tolerance.logit_rms:
            yield f"all cases: logits differ by {self.logit_rms:.3g} rms, expected at most {self.tolerance.logit_rms:g}"
        if not self.vector_rms <= self.tolerance.vector_rms:
            most = self.tolerance.vector_rms
            yield f"all cases: vectors lie {self.vector_rms:.3g} rms away, expected at most {most:g}"
        few = 0 < self.positions < AGREEMENT_FEWEST or (self.task in ("regress", "answer") and not self.positions)
        if not few and not self.agreement >= self.tolerance.agreement:
            yield (
                f"all cases: {self.agreement:.2%} of the top-1 tokens agree, "
                f"expected at least {self.tolerance.agreement:.2%}"
            )
        if self.own_integers and (fault := self.own_integers.fault):
            yield fault


def _row(case: CaseReport) -> tuple[str, ...]:
    return (
        case.name,
        f"{case.agreed}/{case.positions}",
        f"{case.largest_logit:.1e}",
        f"{case.largest_log_prob:.1e}",
        case.greedy or "-",
        case.beam or "-",
        f"{case.largest_score:.1e}",
        f"{case.seconds * 1e3:.0f}",
    )
