"""Beam search of one text with every option: groups, patience, stopping rules, a prefix, alternatives.

The rules are those of :mod:`edgewise.runtime.search`, and where no option says otherwise so are the results. Greedy
search is a beam of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .constraints import share_out
from .engine import Candidates, Floats, Ids
from .requests import Live, RequestSearch, Task, common_prefix
from .results import FinishReason, TokenHypothesis
from .sampling import Doubles
from .search import length_norm
from .softmax import log_softmax


class Continuation(NamedTuple):
    """A live beam of a group, a token after it, and that token's log-probability (nats)."""

    beam: int
    token: int
    log_prob: float


class Group:
    """The beams of one group: those that live, in the rows from ``first_row`` on, and those that have finished."""

    def __init__(self, search: BeamRequest, size: int, first_row: int) -> None:
        self.search, self.size, self.first_row = search, size, first_row
        self.live = [Live(first_row)]  # the rows of a text agree at first: only one of them may be continued
        self.finished: list[TokenHypothesis] = []

    def force(self, token: int, log_prob: float) -> None:
        """Take a step that is not chosen."""
        self.live = [self.live[0].extended(self.first_row, token, log_prob)]
        self._close()

    def advance(self, ranked: Iterator[Continuation]) -> list[int]:
        """Take one step from continuations, best first. Returns the tokens that the live beams took."""
        task = self.search.task
        alive = self._from_banks(ranked) if task.include else self._take(ranked, self.size)
        if not alive and not self.finished:
            raise task.nothing_left(self.live[0].tokens)
        self.live = [self._longer(c, self.first_row + i) for i, c in enumerate(alive)]
        self._close()
        return [continuation.token for continuation in alive]

    def _take(self, ranked: Iterable[Continuation], size: int) -> list[Continuation]:
        """The first ``size`` that go on; what ends within the first ``size`` ranks is finished."""
        alive: list[Continuation] = []
        for rank, continuation in enumerate(ranked):
            longer = self._longer(continuation, self.first_row)
            reason = self.search.task.ended(longer.tokens)
            if reason is None:
                alive.append(continuation)
            elif rank < size:
                self._add(self.search.hypothesis(longer, reason))
            if len(alive) >= size:
                break
        return alive

    def _from_banks(self, ranked: Iterable[Continuation]) -> list[Continuation]:
        """What lives on where phrases must appear, each bank's share: see :mod:`edgewise.runtime.constraints`."""
        task = self.search.task
        banks: list[list[tuple[int, Continuation]]] = [[] for _ in range(sum(map(len, task.include)) + 1)]
        for rank, continuation in enumerate(ranked):
            tokens = self._longer(continuation, 0).tokens
            lacking = task.missing(tokens)
            if lacking == 0 or task.ended(tokens) is None:
                banks[-1 - lacking].append((rank, continuation))
        alive: list[tuple[int, Continuation]] = []
        for share, bank in zip(share_out(self.size, list(map(len, banks))), banks, strict=True):
            places = {continuation: rank for rank, continuation in bank}
            alive += [(places[c], c) for c in self._take(places, share)] if share else []
        return [continuation for _, continuation in sorted(alive)]

    def _longer(self, continuation: Continuation, row: int) -> Live:
        return self.live[continuation.beam].extended(row, continuation.token, continuation.log_prob)

    def interrupt(self, reason: FinishReason) -> None:
        """Finish what lives as it stands."""
        for live in self.live:
            self._add(self.search.hypothesis(live, reason))
        self.live = []

    def _add(self, hypothesis: TokenHypothesis) -> None:
        self.finished.append(hypothesis)
        self.finished.sort(key=self.search.order)  # stable: of equals, the one finished first
        del self.finished[self.search.task.options.pool_size :]

    def _close(self) -> None:
        """Let go of what lives if nothing of it is waited for."""
        if self.live and len(self.live[0].tokens) == self.search.task.limit:
            self.interrupt("length")
        elif self._has_enough():
            self.live = []

    def _has_enough(self) -> bool:
        options = self.search.task.options
        if not self.live or len(self.finished) < options.pool_size:
            return False
        if options.early_stopping is True:
            return True
        # Of a negative sum over a norm that grows with the length, the longest sequence can make the most.
        length = self.search.task.limit if options.early_stopping == "never" else len(self.live[0].tokens)
        best = max(live.total for live in self.live) / length_norm(length, options.length_penalty, options.length_norm)
        return self.finished[-1].normalized_score >= best


class BeamRequest(RequestSearch):
    """Greedy and beam search of one text."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        options = task.options
        count = options.alternatives or options.beam_groups
        size = options.beam_size if options.alternatives else options.beam_size // options.beam_groups
        self.groups = [Group(self, size, i * size) for i in range(count)]

    @property
    def live(self) -> list[Live]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        return [live for group in self.groups for live in group.live]

    def advance(self, best: Candidates, logits: Floats | None) -> None:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        step = len(self.live[0].tokens)
        if step < len(self.task.prefix):
            assert logits is not None  # a task with a prefix reads them
            self._force(self.task.prefix[step], logits)
        elif step == len(self.task.prefix) and self.task.options.alternatives:
            self._part(best, logits)
        else:
            self._step(best, logits)

    def _force(self, token: int, logits: Floats) -> None:
        """A token of the prefix, with the log-probability that the model itself gives it."""
        for group in self.groups:
            group.force(token, float(log_softmax(logits[group.live[0].row])[token]))

    def _part(self, best: Candidates, logits: Floats | None) -> None:
        """The first choice of alternatives: every group takes the next of the most probable tokens."""
        found = self._continuations(self.groups[0], best, logits)
        options = list(rank(self.groups[0].live, found))
        for i, group in enumerate(self.groups):
            if i < len(options):
                group.advance(iter(options[i:]))
            else:
                group.live = []  # there are no more tokens
        if not options:
            raise self.task.nothing_left(self.task.prefix)

    def _step(self, best: Candidates, logits: Floats | None) -> None:
        taken: list[int] = []
        for group in self.groups:
            if group.live:
                found = self._continuations(group, best, logits)
                taken += group.advance(rank(group.live, found, taken, self.task.options.diversity_penalty))

    def _continuations(self, group: Group, best: Candidates, logits: Floats | None) -> list[tuple[Doubles, Ids]]:
        """Log-probabilities and ids, best first, of every live beam of a group."""
        if not self.task.reads_logits:
            return [(best.log_probs[live.row].astype(np.float64), best.ids[live.row]) for live in group.live]
        assert logits is not None
        unbounded = self.task.options.stop and self.task.options.beam_size > 1
        width = logits.shape[1] if unbounded else self.task.width
        wanted = sorted({token for phrase in self.task.include for token in phrase})
        return [top(self.task.log_probs(logits[live.row], live.tokens), width, wanted) for live in group.live]

    def interrupt(self, reason: FinishReason) -> None:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        for group in self.groups:
            group.interrupt(reason)

    def results(self) -> list[TokenHypothesis]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        found = [hypothesis for group in self.groups for hypothesis in group.finished]
        if self.task.options.alternatives:
            return found
        complete = [hypothesis for hypothesis in found if not self.task.missing(hypothesis.tokens)]
        return sorted(complete or found, key=self.order)[: self.task.options.n_best]

    def order(self, hypothesis: TokenHypothesis) -> tuple[int, float]:
        """What finished hypotheses are sorted by: first those that lack least of the phrases they must hold."""
        return self.task.missing(hypothesis.tokens), -hypothesis.normalized_score

    def agreed(self) -> tuple[int, ...]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        if not self.live:
            return self.results()[0].tokens
        finished = [hypothesis.tokens for group in self.groups for hypothesis in group.finished]
        return common_prefix([*finished, *(live.tokens for live in self.live)])


def top(log_probs: Doubles, width: int, wanted: Sequence[int] = ()) -> tuple[Doubles, Ids]:
    """The best ``width`` of ``log_probs (V,)``, and the tokens ``wanted``, as far as they are possible at all.

    Best first, of equals the lower id first.
    """
    width = min(width, len(log_probs))
    least = np.partition(log_probs, -width)[-width]
    near = np.flatnonzero((log_probs >= least) & (log_probs > -np.inf))  # with every tie of the last
    ids = near[np.argsort(-log_probs[near], kind="stable")[:width]]
    if len(wanted) > 0:
        ids = np.union1d(ids, [token for token in wanted if log_probs[token] > -np.inf]).astype(np.int64)
        ids = ids[np.argsort(-log_probs[ids], kind="stable")]
    return log_probs[ids], ids


def rank(
    live: Sequence[Live], found: Sequence[tuple[Doubles, Ids]], taken: Sequence[int] = (), penalty: float = 0.0
) -> Iterator[Continuation]:
    """Continuations of ``live`` by cumulative log-probability, lower beam, lower id; ``found``: those of every beam.

    Each counts ``penalty`` less for every time its token was ``taken``.
    """
    log_probs = np.concatenate([values for values, _ in found])
    ids = np.concatenate([tokens for _, tokens in found])
    beams = np.repeat(np.arange(len(found)), [len(values) for values, _ in found])
    totals = log_probs + np.array([beam.total for beam in live])[beams]
    for token in taken:
        totals = totals - penalty * (ids == token)
    for i in np.lexsort((ids, beams, -totals)):
        yield Continuation(int(beams[i]), int(ids[i]), float(log_probs[i]))
