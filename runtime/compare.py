"""Comparing what an engine gave with what the reference gave, for one case at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .bundle.cases import Beam, Classified, Greedy, Step, TokenScores, fold, log_sum_exp
from .engine import Candidates, Floats
from .results import TokenHypothesis
from .tolerances import Tolerance
from .verification import CaseReport, Outcome

MAX_FAULTS = 6
_OWN = 1e-3  # an engine's candidates against its own logits: both float32, whatever the precision of the weights


@dataclass
class Comparison:
    """The differences found so far in one case."""

    name: str
    tolerance: Tolerance
    logit_ids: tuple[int, ...]
    positions: int = 0
    agreed: int = 0
    undecided: int = 0
    logit_squares: float = 0.0
    logit_count: int = 0
    greedy: Outcome | None = None
    beam: Outcome | None = None
    seconds: float = 0.0
    largest: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("logit", "log_prob", "fold", "score", "vector"), 0.0)
    )
    faults: list[str] = field(default_factory=list)

    def fault(self, message: str) -> None:
        """Note what is outside the tolerance."""
        self.faults.append(message)

    def report(self) -> CaseReport:
        """What was found; of many faults the first few."""
        faults = self.faults[:MAX_FAULTS]
        if more := len(self.faults) - len(faults):
            faults.append(f"and {more} more")
        return CaseReport(
            name=self.name,
            positions=self.positions,
            agreed=self.agreed,
            undecided=self.undecided,
            largest_logit=self.largest["logit"],
            largest_log_prob=self.largest["log_prob"],
            largest_fold=self.largest["fold"],
            largest_score=self.largest["score"],
            largest_vector=self.largest["vector"],
            logit_squares=self.logit_squares,
            logit_count=self.logit_count,
            greedy=self.greedy,
            beam=self.beam,
            seconds=self.seconds,
            faults=tuple(faults),
        )

    def step(self, where: str, logits: Floats, expected: Step, token: int, log_prob: float) -> None:
        """Compare ``logits (V,)`` with the recorded step, after which the reference chose ``token``."""
        if not self._finite(where, logits):
            return
        ids = np.array([*expected.top_ids, *self.logit_ids])
        values = np.array([*expected.top_logits, *expected.logits])
        normalizer = log_sum_exp(logits)
        self._logits(where, logits[ids] - normalizer, values - expected.log_normalizer)
        self._bound("logit", where, "logarithm of the sum", normalizer, expected.log_normalizer, self.tolerance.logit)
        own = float(logits[token]) - normalizer
        self._bound("log_prob", where, f"log-probability of token {token}", own, log_prob, self.tolerance.log_prob)
        self._folds(where, logits, expected)
        second, first = np.partition(logits, -2)[-2:].tolist()
        self._bound("margin", where, "margin", first - second, expected.margin, 2 * self.tolerance.logit)
        self._best(where, int(logits.argmax()), expected.top_ids[0], expected.margin)

    def candidates(self, where: str, best: Candidates, logits: Floats, expected: Step) -> None:
        """Compare the first row of an engine's candidates with its own ``logits (V,)`` and with the reference's."""
        found, ids = best.log_probs[0], best.ids[0]
        if not self._finite(where, found):
            return
        own = logits[ids] - log_sum_exp(logits)
        if not np.abs(own - found).max() <= _OWN:
            self.fault(f"{where}: candidates {ids.tolist()} have {found.tolist()}, their logits say {own.tolist()}")
        # The k-th largest of two lists differ by no more than the lists do.
        known = np.array(expected.top_logits[: len(found)]) - expected.log_normalizer
        off = float(np.abs(found[: len(known)] - known).max())
        if not off <= 2 * self.tolerance.logit:
            self.fault(f"{where}: the candidates' log-probabilities differ by {off:.3g} from the reference's")

    def classes(self, where: str, logits: Floats, expected: Classified, names: tuple[str, ...]) -> None:
        """Compare class scores ``(classes,)``."""
        if not self._finite(where, logits):
            return
        values = np.array(expected.logits)
        self._logits(where, logits, values)
        if len(values) > 1:
            second, first = np.sort(values)[-2:].tolist()
            self._best(where, int(logits.argmax()), names.index(expected.label), first - second)

    def tokens(self, where: str, logits: Floats, expected: Sequence[TokenScores], spans: bool) -> None:
        """Compare the scores ``(S, classes)`` of a text's tokens where they were recorded.

        The best: the class of every token, or with ``spans`` the token for either end, where the reference had one.
        """
        if not self._finite(where, logits):
            return
        found = logits[[scores.position for scores in expected]]
        values = np.array([scores.logits for scores in expected])
        for scores, own, known in zip(expected, found, values, strict=True):
            self._logits(f"{where}, token {scores.position}", own, known)
        for own, known in zip(found.T, values.T, strict=True) if spans else zip(found, values, strict=True):
            second, first = np.sort(known)[-2:].tolist() if len(known) > 1 else (0.0, 0.0)
            if not spans or first - second > self.tolerance.margin:
                self._best(where, int(own.argmax()), int(known.argmax()), first - second)

    def vector(self, where: str, found: Floats, own: int, references: NDArray[np.float64]) -> None:
        """Compare a text's vector ``(D,)`` with row ``own`` of the ``references (cases, D)`` of all cases."""
        if not self._finite(where, found):
            return
        length = float(np.linalg.norm(references[own]))
        bound = self.tolerance.vector * length
        distances = np.linalg.norm(references - found, axis=1)
        self._bound("vector", where, "distance, by length,", float(distances[own]) / length, 0.0, self.tolerance.vector)
        nearest = int(distances.argmin())
        self.positions += 1
        if distances[own] <= distances[nearest]:
            self.agreed += 1
        elif float(np.linalg.norm(references[nearest] - references[own])) <= 2 * bound:
            self.undecided += 1
        else:
            self.fault(f"{where}: the nearest reference is that of case {nearest}, expected {own}")

    def search(self, kind: str, found: TokenHypothesis, expected: Greedy | Beam, margin: float | None) -> Outcome:
        """Compare a free-running search; ``margin``: by how little the reference decided, ``None`` for no doubt."""
        if found.tokens == expected.tokens:
            self._trace(kind, found, expected)
            return "same"
        if margin is not None and margin <= self.tolerance.margin:
            return "undecided"
        at = _first_difference(found.tokens, expected.tokens)
        self.fault(
            f"{kind}: tokens differ from the {at + 1}. on: {list(found.tokens[at : at + 4])}, expected "
            f"{list(expected.tokens[at : at + 4])}, which the reference chose by a margin of {margin}"
        )
        return "different"

    def _trace(self, kind: str, found: TokenHypothesis, expected: Greedy | Beam) -> None:
        """The scores of a search that gave the reference's tokens."""
        for i, (own, log_prob) in enumerate(zip(found.token_log_probs, expected.token_log_probs, strict=True)):
            self._bound("log_prob", f"{kind} token {i}", "log-probability", own, log_prob, self.tolerance.log_prob)
        bound = self.tolerance.log_prob * max(1, len(expected.tokens))
        self._bound("score", kind, "score", found.score, expected.score, bound)
        if isinstance(expected, Beam):
            own = found.normalized_score
            self._bound("score", kind, "normalized score", own, expected.normalized_score, bound)
        if found.finish_reason != expected.finish_reason:
            self.fault(f"{kind}: finished by {found.finish_reason!r}, expected {expected.finish_reason!r}")

    def _finite(self, where: str, values: NDArray[np.floating]) -> bool:
        finite = bool(np.isfinite(values).all())
        if not finite:
            self.fault(f"{where}: NaN or infinite scores")
        return finite

    def _logits(self, where: str, found: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
        off = np.abs(found.astype(np.float64) - expected)
        self.logit_squares += float((off * off).sum())
        self.logit_count += len(off)
        worst = int(off.argmax())
        self._bound("logit", where, "logit", float(found[worst]), float(expected[worst]), self.tolerance.logit)

    def _folds(self, where: str, logits: Floats, expected: Step) -> None:
        if expected.folds:
            own, known = fold(logits), np.array(expected.folds)
            worst = int(np.abs(own - known).argmax())
            what = f"sum over ids {worst} modulo {len(known)}"
            self._bound("fold", where, what, float(own[worst]), float(known[worst]), self.tolerance.fold)

    def _best(self, where: str, found: int, expected: int, margin: float) -> None:
        self.positions += 1
        if found == expected:
            self.agreed += 1
        elif margin <= self.tolerance.margin:
            self.undecided += 1
        else:
            self.fault(f"{where}: the best is {found}, expected {expected}, the reference's by {margin:.3g}")

    def _bound(self, kind: str, where: str, what: str, found: float, expected: float, bound: float) -> None:
        off = abs(found - expected)
        self.largest[kind] = max(self.largest.get(kind, 0.0), off)
        if not off <= bound:
            self.fault(f"{where}: {what} is {found:.6g}, expected {expected:.6g} within {bound:g}")


def _first_difference(found: tuple[int, ...], expected: tuple[int, ...]) -> int:
    """The first place where two sequences differ; one may be the beginning of the other."""
    pairs = zip(found, expected, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))


def greedy_margin(found: TokenHypothesis, expected: Greedy) -> float | None:
    """By how much the reference preferred its own token where a greedy search first took another one."""
    at = _first_difference(found.tokens, expected.tokens)
    return expected.steps[at].margin if at < len(expected.steps) else None
