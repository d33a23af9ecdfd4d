"""Logit rules of speech: how a result begins, and where its timestamps stand (Radford et al. 2022, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .engine import Floats
from .softmax import log_softmax


@dataclass(frozen=True)
class BeginSuppress:
    """None of these tokens as the first new one (``SuppressBlank`` of ``whisper/decoding.py``)."""

    tokens: tuple[int, ...]

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`~edgewise.runtime.rules.Rule`."""
        if not new:
            logits[list(self.tokens)] = -np.inf


@dataclass(frozen=True)
class Timestamps:
    """Every piece of text between two times, which never go back.

    ``first``: the token of time 0, behind which stand the later ones, and before which everything else. ``end_id``
    ends a result. ``most_initial``: of the times, the last that a result may begin with; ``None``: any.

    A result begins with a time. After text and one time follows another, not earlier one, or the end; after two times
    follows text, or the end. A time is later than those before it, but for the one that begins a piece where another
    ended. Where all times together are more probable than the most probable token that is none, only times may come.

    Apply it last: that comparison is of what the other rules leave.

    Reference: ``ApplyTimestampRules`` of ``whisper/decoding.py`` in github.com/openai/whisper at c0d2f62.
    """

    first: int
    end_id: int
    no_timestamps_id: int
    most_initial: int | None = None

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`~edgewise.runtime.rules.Rule`."""
        logits[self.no_timestamps_id] = -np.inf
        timed = bool(new) and new[-1] >= self.first
        twice = len(new) < 2 or new[-2] >= self.first
        if timed and twice:
            logits[self.first :] = -np.inf
        elif timed:
            logits[: self.end_id] = -np.inf
        times = [token for token in new if token >= self.first]
        if times:
            opens = timed and not twice  # a piece may begin at the very time where the one before it ended
            logits[self.first : times[-1] + int(not opens)] = -np.inf
        if not new:
            logits[: self.first] = -np.inf
            if self.most_initial is not None:
                logits[self.first + self.most_initial + 1 :] = -np.inf
        self._prefer_times(logits)

    def _prefer_times(self, logits: Floats) -> None:
        log_probs = log_softmax(logits)
        words, times = log_probs[: self.first], log_probs[self.first :]
        most = float(times.max(initial=-np.inf))
        if most == -np.inf:
            return
        if most + float(np.log(np.exp(times - most).sum())) > float(words.max()):
            logits[: self.first] = -np.inf
