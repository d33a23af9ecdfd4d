"""Greedy search of one text without options: the best candidate of its one row, step after step."""

from __future__ import annotations

from .engine import Candidates, Floats
from .requests import Live, RequestSearch, Task
from .results import FinishReason, TokenHypothesis


class GreedyRequest(RequestSearch):
    """As :class:`~edgewise.runtime.beams.BeamRequest` with one beam, without ranking anything."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._live: Live | None = Live(0)
        self._found: TokenHypothesis | None = None

    @property
    def live(self) -> list[Live]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        return [] if self._live is None else [self._live]

    def advance(self, best: Candidates, logits: Floats | None) -> None:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        assert self._live is not None
        self._live = self._live.extended(0, best.ids.item(0), best.log_probs.item(0))
        if self._live.tokens[-1] in self.task.end_ids:
            self.interrupt("end")
        elif len(self._live.tokens) == self.task.limit:
            self.interrupt("length")

    def interrupt(self, reason: FinishReason) -> None:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        if self._live is not None:
            self._found, self._live = self.hypothesis(self._live, reason), None

    def results(self) -> list[TokenHypothesis]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`."""
        return [] if self._found is None else [self._found]

    def agreed(self) -> tuple[int, ...]:
        """See :class:`~edgewise.runtime.requests.RequestSearch`. Greedy search takes nothing back."""
        return self._live.tokens if self._live is not None else self.results()[0].tokens
