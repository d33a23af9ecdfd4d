"""The rules of a beam search, one sentence at a time: pure Python, whatever computed the scores.

They stand in the docstring of :mod:`edgewise.models.decode`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

FinishReason = Literal["end", "length"]


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One decoded sequence.

    ``tokens`` end with ``end_id`` where ``finish_reason`` is ``end``; ``score`` is the sum of ``token_log_probs``
    (nats); ``decision_gap`` is the smallest difference of scores that any choice of this sentence's search hung on: a
    decoder whose numbers differ by less than half of it makes the same choices. ``logits (len(tokens), V)``: greedy
    only, from which each token was chosen, as an array of whatever library.
    """

    tokens: tuple[int, ...]
    token_log_probs: tuple[float, ...]
    score: float
    normalized_score: float
    finish_reason: FinishReason
    decision_gap: float
    logits: Any = None


class Candidate(NamedTuple):
    """One possible continuation: a beam, the token after it, that token's log-probability, and the sum so far."""

    beam: int
    token: int
    log_prob: float
    total: float


def length_norm(length: int, length_penalty: float) -> float:
    """What a score is divided by: ``((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, equation 14)."""
    return float(((5 + length) / 6) ** length_penalty)


@dataclass
class SentenceBeams:
    """The beams of one sentence, and the rules of this module."""

    beam_size: int
    length_penalty: float
    max_new_tokens: int
    end_id: int
    live: list[tuple[tuple[int, ...], tuple[float, ...], float]] = field(default_factory=lambda: [((), (), 0.0)])
    finished: list[Decoded] = field(default_factory=list)
    done: bool = False
    gap: float = math.inf

    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        """Take one step from the best ``2K + 1`` candidates, best first. Returns the beam each live one continues."""
        self._finish_ended(candidates)
        alive = [c for c in candidates if c.token != self.end_id]
        self.live = [self._extended(c) for c in alive[: self.beam_size]]
        self.done = self._is_done()
        if not self.done:
            self._note_gap(alive, self.beam_size)
            if len(self.live[0][0]) == self.max_new_tokens:
                self._finish_at_length()
        return [c.beam for c in alive[: self.beam_size]]

    def results(self, n_best: int) -> list[Decoded]:
        """The best hypotheses, best first, all with the gap of the whole search."""
        best = [h.normalized_score for h in self.finished]
        gap = min([self.gap, *(a - b for a, b in itertools.pairwise(best[: n_best + 1]))])
        return [_replace_gap(h, gap) for h in self.finished[:n_best]]

    def _finish_ended(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates[: self.beam_size]:
            if candidate.token == self.end_id:
                tokens, log_probs, _ = self._extended(candidate)
                self._add_finished(tokens, log_probs, "end")
        boundary = candidates[self.beam_size - 1 : self.beam_size + 1]
        if any(c.token == self.end_id for c in boundary):
            self._note_gap(boundary, 1)

    def _extended(self, candidate: Candidate) -> tuple[tuple[int, ...], tuple[float, ...], float]:
        tokens, log_probs, _ = self.live[candidate.beam]
        return (*tokens, candidate.token), (*log_probs, candidate.log_prob), candidate.total

    def _add_finished(self, tokens: tuple[int, ...], log_probs: tuple[float, ...], reason: FinishReason) -> None:
        score = sum(log_probs)
        normalized = score / length_norm(len(tokens), self.length_penalty)
        self.finished.append(
            Decoded(
                tokens=tokens,
                token_log_probs=log_probs,
                score=score,
                normalized_score=normalized,
                finish_reason=reason,
                decision_gap=math.inf,
            )
        )
        self.finished.sort(key=lambda h: -h.normalized_score)  # stable: of equals, the one finished first
        for dropped in self.finished[self.beam_size :]:
            self.gap = min(self.gap, self.finished[self.beam_size - 1].normalized_score - dropped.normalized_score)
        del self.finished[self.beam_size :]

    def _is_done(self) -> bool:
        if len(self.finished) < self.beam_size:
            return False
        best_live = self.live[0][2] / length_norm(len(self.live[0][0]), self.length_penalty)
        lead = self.finished[-1].normalized_score - best_live
        self.gap = min(self.gap, abs(lead))
        return lead >= 0

    def _finish_at_length(self) -> None:
        for tokens, log_probs, _ in self.live:
            self._add_finished(tokens, log_probs, "length")
        self.done = True

    def _note_gap(self, candidates: Sequence[Candidate], rank: int) -> None:
        """Note how far the last that got in stands above the first that did not."""
        if len(candidates) > rank:
            self.gap = min(self.gap, candidates[rank - 1].total - candidates[rank].total)


def _replace_gap(hypothesis: Decoded, gap: float) -> Decoded:
    return Decoded(**{**hypothesis.__dict__, "decision_gap": gap})
