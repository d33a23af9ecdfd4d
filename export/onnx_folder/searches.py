"""Searches of the reference of a folder of graphs: naive, or through the graphs' own cache where they are too large.

Those with a cache are as :mod:`edgewise.models.cached` has them: a greedy search finds its tokens through it, and all
its numbers then come from one pass over the whole text, which has none; a beam search keeps what it found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import ExportError
from ...models.beam_rules import Candidate, Decoded, SentenceBeams, length_norm
from ..cases import BEAM_SIZE, LENGTH_PENALTY, Logits

Arrays = dict[str, NDArray[Any]]
States = NDArray[np.float32] | None


class Graphs(Protocol):
    """What a search asks: see :class:`.reference.NaiveGraphs`."""

    def next_logits(self, states: States, prefixes: Sequence[Sequence[int]]) -> Logits:
        """Logits ``(R, V)`` of the token after each prefix."""

    def decode(self, states: States, ids: Sequence[Sequence[int]], past: Arrays) -> tuple[Logits, Arrays]:
        """Logits ``(R, T, V)`` after each token behind a past, and the past with them."""


@dataclass(frozen=True)
class Search:
    """One text: the encoder's states or none, what decoding begins with, and at most so many new tokens."""

    graphs: Graphs
    states: States
    prompt: tuple[int, ...]
    limit: int
    end_id: int

    def greedy(self) -> Decoded:
        """The most probable token at every step, the lower id of equals; the whole prefix is read again for it."""
        tokens: list[int] = []
        rows: list[Logits] = []
        while len(tokens) < self.limit and self.end_id not in tokens:
            rows.append(_finite(self.graphs.next_logits(self.states, [[*self.prompt, *tokens]])[0]))
            tokens.append(int(_best_places(rows[-1], 1)[0]))
        return self._result(tokens, rows)

    def beam(self) -> Decoded:
        """The best of a beam search, by the rules of :mod:`edgewise.models.decode`."""
        beams = self._beams()
        while not beams.done:
            prefixes = [[*self.prompt, *tokens] for tokens, _, _ in beams.live]
            beams.advance(_candidates(beams, self.graphs.next_logits(self.states, prefixes)))
        return beams.results(1)[0]

    def cached_greedy(self) -> Decoded | None:
        """As :meth:`greedy`; ``None`` where the pass without a cache would have chosen another token."""
        tokens: list[int] = []
        read, past = self.prompt, Arrays()
        while len(tokens) < self.limit and self.end_id not in tokens:
            logits, past = self.graphs.decode(self.states, [read], past)
            tokens.append(int(_best_places(_finite(logits[0, -1]), 1)[0]))
            read = (tokens[-1],)
        whole, _ = self.graphs.decode(self.states, [[*self.prompt, *tokens[:-1]]], Arrays())
        rows = list(_finite(whole[0, len(self.prompt) - 1 :]))
        same = [int(_best_places(row, 1)[0]) for row in rows] == tokens
        return self._result(tokens, rows) if same else None

    def cached_beam(self) -> Decoded:
        """As :meth:`beam`."""
        beams = self._beams()
        logits, past = self.graphs.decode(self.states, [self.prompt], Arrays())
        while True:
            rows = beams.advance(_candidates(beams, logits[:, -1]))
            if beams.done:
                return beams.results(1)[0]
            past = {name: cache[rows] for name, cache in past.items()}
            logits, past = self.graphs.decode(self.states, [tokens[-1:] for tokens, _, _ in beams.live], past)

    def _beams(self) -> SentenceBeams:
        return SentenceBeams(BEAM_SIZE, LENGTH_PENALTY, self.limit, self.end_id)

    def _result(self, tokens: Sequence[int], rows: list[Logits]) -> Decoded:
        scores = [_log_softmax(row) for row in rows]
        log_probs = [float(row[token]) for row, token in zip(scores, tokens, strict=True)]
        gaps = (float(row[first] - row[second]) for row in scores for first, second in [_best_places(row, 2)])
        return Decoded(
            tokens=tuple(tokens),
            token_log_probs=tuple(log_probs),
            score=sum(log_probs),
            normalized_score=sum(log_probs) / length_norm(len(tokens), LENGTH_PENALTY),
            finish_reason="end" if tokens[-1] == self.end_id else "length",
            decision_gap=min(gaps),
            logits=rows,
        )


def _finite(logits: Logits) -> Logits:
    if not np.isfinite(logits).all():
        raise ExportError("the graphs give logits that are not numbers: their weights are damaged, export them again")
    return logits


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: Logits = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
    return found


def _best_places(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Where the ``count`` largest of ``values (N,)`` stand, largest first and the lower place of equals.

    Of a large vocabulary most are not sorted.
    """
    least = np.partition(values, -count)[-count]
    places = np.flatnonzero(values >= least)
    return places[np.argsort(-values[places], kind="stable")][:count]


def _candidates(beams: SentenceBeams, logits: Logits) -> list[Candidate]:
    """The best ``2K + 1`` continuations by total, lower beam, lower id; ``logits (live beams, V)``."""
    log_probs = _log_softmax(logits)
    totals = np.array([total for _, _, total in beams.live])
    flat = (totals[:, None] + log_probs.astype(np.float64)).ravel()
    best = _best_places(flat, min(2 * beams.beam_size + 1, flat.size))
    rows, ids = np.divmod(best, log_probs.shape[1])
    return [
        Candidate(int(b), int(t), float(log_probs[b, t]), float(flat[i]))
        for b, t, i in zip(rows, ids, best, strict=True)
    ]
