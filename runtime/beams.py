"""Beam search of one text with every option: groups, patience, stopping rules, a prefix, alternatives.

The rules are those of :mod:`edgewise.runtime.search`, and where no option says otherwise so are the results. Greedy
search is a beam of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .engine import Candidates, Floats, Ids
from .requests import Live, RequestSearch, Task, common_prefix, log_softmax
from .results import FinishReason, TokenHypothesis
from .sampling import Doubles
from .search import length_norm


class Continuation(NamedTuple):
    """A live beam of a group, a token after it, and that token's log-probability (nats)."""

    beam: int
    token: int
    log_prob: float


class Group:
    """The beams of one group: those that live, in the rows from ``first_row`` on, and those that have finished."""

    def __init__(self, search: RequestSearch, size: int, first_row: int) -> None:
        self.search, self.size, self.first_row = search, size, first_row
        self.live = [Live(first_row)]  # the rows of a text agree at first: only one of them may be continued
        self.finished: list[TokenHypothesis] = []

    def force(self, token: int, log_prob: float) -> None:
        """Take a step that is not chosen."""
        self.live = [self.live[0].extended(self.first_row, token, log_prob)]
        self._close()

    def advance(self, ranked: Iterator[Continuation]) -> list[int]:
        """Take one step from continuations, best first. Returns the tokens that the live beams took."""
        task, alive = self.search.task, list[Live]()
        for rank, (beam, token, log_prob) in enumerate(ranked):
            longer = self.live[beam].extended(self.first_row + len(alive), token, log_prob)
            reason = task.ended(longer.tokens)
            if reason is None:
                alive.append(longer)
            elif rank < self.size:
                self._add(self.search.hypothesis(longer, reason))
            if len(alive) == self.size:
                break
        if not alive and not self.finished:
            raise task.nothing_left(self.live[0].tokens)
        self.live = alive
        self._close()
        return [live.tokens[-1] for live in alive]

    def interrupt(self, reason: FinishReason) -> None:
        """Finish what lives as it stands."""
        for live in self.live:
            self._add(self.search.hypothesis(live, reason))
        self.live = []

    def _add(self, hypothesis: TokenHypothesis) -> None:
        self.finished.append(hypothesis)
        self.finished.sort(key=lambda h: -h.normalized_score)  # stable: of equals, the one finished first
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
        best = max(live.total for live in self.live) / length_norm(length, options.length_penalty)
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
        return [top(self.task.log_probs(logits[live.row], live.tokens), width) for live in group.live]

    def interrupt(self, reason: FinishReason) -> None:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        for group in self.groups:
            group.interrupt(reason)

    def results(self) -> list[TokenHypothesis]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        found = [hypothesis for group in self.groups for hypothesis in group.finished]
        if self.task.options.alternatives:
            return found
        return sorted(found, key=lambda h: -h.normalized_score)[: self.task.options.n_best]

    def agreed(self) -> tuple[int, ...]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        if not self.live:
            return self.results()[0].tokens
        finished = [hypothesis.tokens for group in self.groups for hypothesis in group.finished]
        return common_prefix([*finished, *(live.tokens for live in self.live)])


def top(log_probs: Doubles, width: int) -> tuple[Doubles, Ids]:
    """The best ``width`` of ``log_probs (V,)`` that are possible at all, best first, of equals the lower id first."""
    width = min(width, len(log_probs))
    least = np.partition(log_probs, -width)[-width]
    near = np.flatnonzero((log_probs >= least) & (log_probs > -np.inf))  # with every tie of the last
    ids = near[np.argsort(-log_probs[near], kind="stable")[:width]]
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
