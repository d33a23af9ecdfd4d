"""Sampling for one text: sequences that are drawn side by side, each with random numbers of its own."""

from __future__ import annotations

from .engine import Candidates, Floats
from .requests import Live, RequestSearch, Task
from .results import FinishReason, TokenHypothesis
from .sampling import draw, uniforms
from .softmax import log_softmax


class SampleRequest(RequestSearch):
    """``samples`` sequences in as many rows; a row whose sequence has ended stays idle."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        assert task.options.sampling is not None
        self.sampling = task.options.sampling
        self._uniforms = uniforms(self.sampling)
        self._live = {row: Live(row) for row in range(self.sampling.samples)}
        self._ended: dict[int, TokenHypothesis] = {}

    @property
    def live(self) -> list[Live]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        return list(self._live.values())

    def advance(self, best: Candidates, logits: Floats | None) -> None:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        assert logits is not None  # sampling reads them
        for live in self.live:
            self._place(self._extended(live, logits[live.row]))

    def _extended(self, live: Live, logits: Floats) -> Live:
        """``live`` and its next token, which counts by its log-probability before the temperature and the filters."""
        if len(live.tokens) < len(self.task.prefix):
            token = self.task.prefix[len(live.tokens)]
            return live.extended(live.row, token, float(log_softmax(logits)[token]))
        log_probs = self.task.log_probs(logits, live.tokens)
        if log_probs.max() == -float("inf"):
            raise self.task.nothing_left(live.tokens)
        token = draw(log_probs, self.sampling, self._uniforms[live.row]())
        return live.extended(live.row, token, float(log_probs[token]))

    def _place(self, live: Live) -> None:
        forced = len(live.tokens) <= len(self.task.prefix)
        reason = None if forced else self.task.ended(live.tokens)
        if reason is None and len(live.tokens) == self.task.limit:
            reason = "length"
        if reason is None:
            self._live[live.row] = live
        else:
            self._end(live, reason)

    def _end(self, live: Live, reason: FinishReason) -> None:
        self._ended[live.row] = self.hypothesis(live, reason)
        del self._live[live.row]

    def interrupt(self, reason: FinishReason) -> None:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        for live in self.live:
            self._end(live, reason)

    def results(self) -> list[TokenHypothesis]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        return [self._ended[row] for row in sorted(self._ended)]

    def agreed(self) -> tuple[int, ...]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`. The first sample is the best there is."""
        return self._live[0].tokens if 0 in self._live else self._ended[0].tokens
