"""Logit rules: what changes the scores of the next token before the softmax.

A rule sees one row: its logits ``(V,)``, every token that the decoder has ``read`` (prompt and new ones, the start
token of a translation among them), and the ``new`` ones alone. It changes the logits in place; a token that must not
come gets minus infinity. Rules apply to raw logits in the order of :func:`rules_for`, in greedy search, beam search and
sampling alike. Token log-probabilities are the log-softmax of what the last rule leaves, so that they stay those of a
distribution, and a beam of one stays greedy.

Hugging Face's ``generate`` applies the same formulas, to logits in greedy search and sampling as here, but to
log-probabilities in beam search, which ``renormalize_logits=True`` sums to one again: of these rules only
``repetition_penalty`` can tell the difference, since the others add the same whatever the normalizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .engine import Floats, Ids
from .options import DecodingOptions


class Rule(Protocol):
    """Changes the logits of one row."""

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """Change ``logits (V,)`` in place; ``new`` is the end of ``read``."""
        ...


@dataclass(frozen=True)
class LogitBias:
    """``z[i] += bias[i]``, a number a token id."""

    bias: Mapping[int, float]

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`Rule`."""
        logits[list(self.bias)] += np.array(list(self.bias.values()), np.float32)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Tokens that were read: ``z / penalty`` where ``z > 0``, else ``z * penalty`` (Keskar et al. 2019, section 4.1).

    The paper divides whatever the sign, which would raise negative logits; the product is Hugging Face's mend.
    """

    penalty: float

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`Rule`."""
        ids = np.unique(np.asarray(read, np.int64))
        seen = logits[ids]
        logits[ids] = np.where(seen > 0, seen / np.float32(self.penalty), seen * np.float32(self.penalty))


@dataclass(frozen=True)
class CountPenalty:
    """``z -= presence + frequency * count`` for tokens among the new ones (OpenAI's API, "advanced usage")."""

    presence: float
    frequency: float

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`Rule`."""
        if new:
            ids, counts = np.unique(np.asarray(new, np.int64), return_counts=True)
            logits[ids] -= (self.presence + self.frequency * counts).astype(np.float32)


@dataclass(frozen=True)
class NoRepeatNgram:
    """No sequence of ``n`` tokens twice in what is read (Paulus et al. 2017, section 2.5)."""

    n: int

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`Rule`."""
        start = tuple(read[len(read) - self.n + 1 :])
        if len(read) >= self.n:
            logits[[read[i + self.n - 1] for i in _places(read, start)]] = -np.inf


@dataclass(frozen=True)
class Suppress:
    """None of these sequences of token ids; of a sequence, its last token is forbidden after the others."""

    sequences: tuple[tuple[int, ...], ...]

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`Rule`."""
        read = tuple(read)
        last = [s[-1] for s in self.sequences if len(s) <= len(read) + 1 and read[len(read) - len(s) + 1 :] == s[:-1]]
        logits[last] = -np.inf


@dataclass(frozen=True)
class MinNewTokens:
    """No end token before ``least`` tokens, that is, none among the first ``least``."""

    least: int
    end_ids: tuple[int, ...]

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`Rule`."""
        if len(new) < self.least:
            logits[list(self.end_ids)] = -np.inf


def rules_for(options: DecodingOptions, end_id: int) -> tuple[Rule, ...]:
    """The rules that ``options`` ask for, in the order in which they apply; ``suppress`` must hold ids by now."""
    rules: list[Rule] = []
    if options.logit_bias:
        rules.append(LogitBias(dict(options.logit_bias)))
    if options.repetition_penalty != 1:
        rules.append(RepetitionPenalty(options.repetition_penalty))
    if options.presence_penalty or options.frequency_penalty:
        rules.append(CountPenalty(options.presence_penalty, options.frequency_penalty))
    if options.no_repeat_ngram:
        rules.append(NoRepeatNgram(options.no_repeat_ngram))
    if options.suppress:
        rules.append(Suppress(tuple(tuple(s) for s in options.suppress if not isinstance(s, str))))
    if options.min_new_tokens:
        rules.append(MinNewTokens(options.min_new_tokens, (end_id, *options.end_ids)))
    return tuple(rules)


def _places(read: Sequence[int], start: tuple[int, ...]) -> Ids:
    """Where ``start`` stands in ``read``, its last place left out, which nothing follows."""
    tokens, n = np.asarray(read, np.int64), len(start)
    if n == 0:
        return np.arange(len(tokens))
    windows = np.lib.stride_tricks.sliding_window_view(tokens, n)[:-1]
    return np.flatnonzero((windows == start).all(axis=1))
