"""Greedy and beam search over an :class:`~edgewise.runtime.engine.Engine`, batched over sentences.

The rules, in the words of :mod:`edgewise.models.decode`, which is the oracle of this module:

* Every step ranks all continuations of a sentence's ``K`` beams by cumulative log-probability; ties go to the lower
  beam, then to the lower token id. The first step starts from one beam.
* Among the best ``2K``: the end token within the first ``K`` ranks is a finished hypothesis, further down it is
  ignored; the first ``K`` that are not the end token live on.
* The finished list keeps the best ``K`` by ``score / ((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, equation
  14, with ``length`` counting the end token). A sentence is done when ``K`` are finished and the worst of them is at
  least as good as the best live beam would be if it ended now.
* At ``max_new_tokens`` the live beams are finished as they are, with reason ``length``.

Both searches are generators: they yield after every step, so that the caller can stream, or stop by closing them, and
return a list of hypotheses a sentence. Sentences that are done leave the run when enough of them are, since moving the
others together costs about as much as a few rows of a step.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from .engine import Candidates, DecoderRun, Ids, Mask, places_kept
from .options import LengthNorm
from .results import FinishReason, TokenHypothesis

Found: TypeAlias = list[list[TokenHypothesis]]
"""For every sentence its hypotheses, best first."""
Search: TypeAlias = Generator[Ids, FinishReason | None, Found]
"""A running search. Yields the tokens each step chose, ``(R,)``, for the rows that are still in the run.

Sending it a reason ends it: what is not finished is finished as it stands, for that reason.
"""

_WORTH_LEAVING = 8
"""Sentences leave a run when at least this share of them, one in so many, are done."""


def length_norm(length: int, length_penalty: float, kind: LengthNorm = "wu") -> float:
    """What a score is divided by: ``((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, equation 14).

    ``kind`` ``"power"``: ``length ** length_penalty``.
    """
    if kind == "power":
        return float(max(1, length) ** length_penalty)  # of no tokens the score is 0, whatever it is divided by
    return float(((5 + length) / 6) ** length_penalty)


def candidates_needed(beam_size: int) -> int:
    """How many candidates a row the search asks of the engine: all of the best ``2K`` may follow one beam."""
    return 1 if beam_size == 1 else 2 * beam_size


def finish(search: Search) -> Found:
    """Run a search to its end."""
    while True:
        try:
            next(search)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def search(
    run: DecoderRun,
    prompts: Ids,
    limits: Sequence[int],
    end_id: int,
    *,
    beam_size: int = 1,
    length_penalty: float = 0.6,
    n_best: int = 1,
    end_ids: Sequence[int] = (),
    norm: LengthNorm = "wu",
) -> Search:
    """Decode ``prompts (B, T)`` with a run of ``beam_size`` beams; ``limits``: most new tokens of every sentence.

    The run must have been started with :func:`candidates_needed` candidates. ``end_ids``: tokens that end a greedy
    search as ``end_id`` does. ``norm``: the formula of ``length_penalty``.

    Raises:
        EngineError: the engine gave NaN.
    """
    if beam_size == 1 and len(prompts) == 1:
        return _greedy_one(run, prompts, int(limits[0]), (end_id, *end_ids), length_penalty, norm)
    if beam_size == 1:
        return _greedy(run, prompts, np.asarray(limits), (end_id, *end_ids), length_penalty, norm)
    return _beam(run, prompts, np.asarray(limits), end_id, beam_size, length_penalty, n_best, norm)


def _greedy_one(
    run: DecoderRun, prompts: Ids, limit: int, end_ids: tuple[int, ...], length_penalty: float, norm: LengthNorm
) -> Search:
    """Greedy search of one sentence: plain numbers, since arrays of one element cost as much as a small layer."""
    row = np.zeros(1, dtype=np.int64)
    tokens: list[int] = []
    log_probs: list[float] = []
    best = run.prefill(prompts)
    while True:
        tokens.append(best.ids.item(0))
        log_probs.append(best.log_probs.item(0))
        if math.isnan(log_probs[-1]):
            refuse_nan(best.log_probs, len(tokens) - 1)
        chosen = np.array(tokens[-1:])
        interrupted = yield chosen
        if interrupted or tokens[-1] in end_ids or len(tokens) == limit:
            reason = _reason(tokens, end_ids, limit, interrupted)
            return [[as_hypothesis(tokens, log_probs, reason, length_penalty, norm)]]
        best = run.step(chosen, row)


def _greedy(
    run: DecoderRun, prompts: Ids, limits: Ids, end_ids: tuple[int, ...], length_penalty: float, norm: LengthNorm
) -> Search:
    """Beam search with one beam, without its bookkeeping."""
    sentences = np.arange(len(prompts))  # of the rows in the run
    live = np.ones(len(prompts), dtype=np.bool_)
    tokens: list[list[int]] = [[] for _ in sentences]
    log_probs: list[list[float]] = [[] for _ in sentences]
    steps = 0
    best = run.prefill(prompts)
    while True:
        chosen, values = best.ids[:, 0].copy(), best.log_probs[:, 0].copy()  # the engine reuses its buffers
        refuse_nan(values, steps)
        for row in np.flatnonzero(live).tolist():
            tokens[sentences[row]].append(int(chosen[row]))
            log_probs[sentences[row]].append(float(values[row]))
        steps += 1
        live &= limits[sentences] > steps
        for end_id in end_ids:
            live &= chosen != end_id
        interrupted = yield chosen
        if interrupted or not live.any():
            reasons = [_reason(t, end_ids, limit, interrupted) for t, limit in zip(tokens, limits, strict=True)]
            found = zip(tokens, log_probs, reasons, strict=True)
            return [[as_hypothesis(*sequence, length_penalty, norm)] for sequence in found]
        if worth_leaving(live):
            places = places_kept(live)
            run.keep(places)
            sentences, chosen, live = sentences[places], chosen[places], np.ones(len(places), dtype=np.bool_)
        best = run.step(chosen, np.arange(len(chosen)))


def _reason(
    tokens: Sequence[int], end_ids: Sequence[int], limit: int, interrupted: FinishReason | None
) -> FinishReason:
    """Why a greedy search ended with ``tokens``."""
    if tokens[-1] in end_ids:
        return "end"
    return "length" if len(tokens) == limit else interrupted or "length"


def worth_leaving(live: Mask) -> bool:
    """Whether enough of the sentences in a run are done, and not all, that the others go on without them."""
    done = len(live) - int(np.count_nonzero(live))
    return 0 < done < len(live) <= done * _WORTH_LEAVING


class _Choice(NamedTuple):
    """What one step chose for the beams that live on; ``(B, K)`` for the ``B`` sentences in the run."""

    parents: Ids
    """The beam, 0 to K - 1, that each continues."""
    ids: Ids
    log_probs: NDArray[np.float32]
    places: Ids
    """Where in the run each sentence of the request stands, if it is still there."""


class _Finished(NamedTuple):
    """A finished hypothesis: ``beam`` as it stood after ``steps`` steps, then the end token if that is why it ended."""

    normalized: float
    steps: int
    beam: int
    end_log_prob: float | None
    reason: FinishReason


@dataclass
class _Beams:
    """All beams of a batch: arrays for the sentences that are in the run, lists of what every sentence has finished."""

    limits: Ids
    """Most new tokens of every sentence of the request."""
    end_id: int
    length_penalty: float
    norm: LengthNorm
    totals: NDArray[np.float64]
    """Cumulative log-probability of the live beams, ``(B, K)``, best first."""
    live: NDArray[np.bool_]
    """False for sentences that are done, ``(B,)``."""
    sentences: Ids
    """Which sentence of the request stands at each of the ``B`` places of the run."""
    finished: list[list[_Finished]]
    """Of every sentence of the request, ``K`` at most, best first."""
    history: list[_Choice] = field(default_factory=list)

    def advance(self, best: Candidates) -> _Choice:
        """Take one step: finish what has ended, choose the beams that live on, see who is done."""
        batch, k = self.totals.shape
        sums = (self.totals[:, :, None] + best.log_probs.reshape(batch, k, -1)).reshape(batch, -1)  # (B, K*W)
        # A row's candidates are in order already, so a stable sort leaves ties to the lower beam, then the lower id.
        order = np.argsort(-sums, axis=1, kind="stable")[:, : 2 * k]
        base = np.arange(0, sums.size, sums.shape[1])[:, None]
        ends = best.ids.reshape(-1)[order + base] == self.end_id
        self._finish_ended(ends[:, :k] & self.live[:, None], order, sums, best)
        order = order[~ends & ((~ends).cumsum(axis=1) <= k)].reshape(batch, k)
        self.totals = sums.reshape(-1)[order + base]
        width = sums.shape[1] // k
        ids, log_probs = (values.reshape(-1)[order + base] for values in (best.ids, best.log_probs))
        places = np.zeros(len(self.finished), np.int64)
        places[self.sentences] = np.arange(batch)
        choice = _Choice(order // width, ids, log_probs, places)
        self.history.append(choice)
        self._close_sentences()
        return choice

    def leave(self) -> Ids:
        """Forget the sentences that are done. Returns the places of those that stay, for the run."""
        places = places_kept(self.live)
        self.sentences, self.totals, self.live = self.sentences[places], self.totals[places], self.live[places]
        return places

    def _finish_ended(self, ended: NDArray[np.bool_], order: Ids, sums: NDArray[np.float64], best: Candidates) -> None:
        """Finish what ``ended (B, K)`` marks among the first ``K`` ranks."""
        steps, width = len(self.history), best.ids.shape[1]
        values = best.log_probs.reshape(sums.shape)
        norm = length_norm(steps + 1, self.length_penalty, self.norm)
        for b, rank in np.argwhere(ended).tolist():
            place = int(order[b, rank])
            found = _Finished(float(sums[b, place]) / norm, steps, place // width, float(values[b, place]), "end")
            self._add(self.sentences[b], found)

    def _add(self, sentence: int, hypothesis: _Finished) -> None:
        finished = self.finished[sentence]
        finished.append(hypothesis)
        finished.sort(key=lambda h: -h.normalized)  # stable: of equals, the one finished first
        del finished[self.totals.shape[1] :]

    def _close_sentences(self) -> None:
        """Mark the sentences that are done, and those that reach their limit."""
        steps, k = len(self.history), self.totals.shape[1]
        norm = length_norm(steps, self.length_penalty, self.norm)
        for b in np.flatnonzero(self.live).tolist():
            sentence = self.sentences[b]
            finished = self.finished[sentence]
            if len(finished) == k and finished[-1].normalized >= self.totals[b, 0] / norm:
                self.live[b] = False
            elif steps == self.limits[sentence]:
                self._finish_live(b, "length")

    def interrupt(self, reason: FinishReason) -> None:
        """Finish all live beams as they stand."""
        for b in np.flatnonzero(self.live).tolist():
            self._finish_live(b, reason)

    def _finish_live(self, place: int, reason: FinishReason) -> None:
        norm = length_norm(len(self.history), self.length_penalty, self.norm)
        for beam, total in enumerate(self.totals[place].tolist()):
            self._add(self.sentences[place], _Finished(total / norm, len(self.history), beam, None, reason))
        self.live[place] = False

    def results(self, n_best: int) -> Found:
        """The best hypotheses of every sentence."""
        return [[self._trace(b, h) for h in finished[:n_best]] for b, finished in enumerate(self.finished)]

    def _trace(self, sentence: int, hypothesis: _Finished) -> TokenHypothesis:
        """Follow a hypothesis back to its first token."""
        tokens: list[int] = []
        log_probs: list[float] = []
        if hypothesis.end_log_prob is not None:
            tokens, log_probs = [self.end_id], [hypothesis.end_log_prob]
        beam = hypothesis.beam
        for choice in reversed(self.history[: hypothesis.steps]):
            place = choice.places[sentence], beam
            tokens.append(int(choice.ids[place]))
            log_probs.append(float(choice.log_probs[place]))
            beam = int(choice.parents[place])
        return as_hypothesis(tokens[::-1], log_probs[::-1], hypothesis.reason, self.length_penalty, self.norm)


def _beam(
    run: DecoderRun,
    prompts: Ids,
    limits: Ids,
    end_id: int,
    beam_size: int,
    length_penalty: float,
    n_best: int,
    norm: LengthNorm,
) -> Search:
    batch = len(prompts)
    totals = np.full((batch, beam_size), -np.inf)
    totals[:, 0] = 0.0  # the rows of a sentence agree at first: only one of them may be continued
    everyone = np.arange(batch)
    beams = _Beams(
        limits, end_id, length_penalty, norm, totals, np.ones(batch, np.bool_), everyone, [[] for _ in everyone]
    )
    best = run.prefill(prompts)
    while True:
        refuse_nan(best.log_probs, len(beams.history))
        choice = beams.advance(best)
        ids, parents = choice.ids, choice.parents
        interrupted = yield ids.reshape(-1)
        if interrupted:
            beams.interrupt(interrupted)
        if not beams.live.any():
            return beams.results(n_best)
        if worth_leaving(beams.live):
            places = beams.leave()
            run.keep(places)
            ids, parents = ids[places], parents[places]
        first_rows = np.arange(len(ids))[:, None] * beam_size
        best = run.step(ids.reshape(-1), (parents + first_rows).reshape(-1))


def as_hypothesis(
    tokens: Sequence[int],
    log_probs: Sequence[float],
    reason: FinishReason,
    length_penalty: float,
    norm: LengthNorm = "wu",
) -> TokenHypothesis:
    """A decoded sequence with its score."""
    score = sum(log_probs, 0.0)
    return TokenHypothesis(
        tokens=tuple(tokens),
        token_log_probs=tuple(log_probs),
        score=score,
        normalized_score=score / length_norm(len(tokens), length_penalty, norm),
        finish_reason=reason,
    )


def refuse_nan(log_probs: NDArray[np.float32], step: int) -> None:
    """Raise :class:`~edgewise.errors.EngineError` where ``log_probs`` hold NaN."""
    if math.isnan(np.add.reduce(log_probs, axis=None)):  # a sum of values that are at most 0 is NaN if one of them is
        raise EngineError(
            f"the engine gave NaN log-probabilities at step {step}: "
            "its weights are damaged or the device computes wrongly; run `edgewise verify`"
        )
