"""Searches that belong to one text each, and the loop that feeds them: a batch of texts with options of their own.

:mod:`edgewise.runtime.search` decodes a whole batch by array operations, and knows plain greedy and beam search. Here
every text owns a :class:`RequestSearch`, which sees its own rows after every step and says what they continue with, so
that the texts of one run may differ in everything but the number of rows, and may leave when they are done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from ..errors import InputError
from .constraints import missing
from .coverage import AttentionOf, coverage
from .engine import Candidates, DecoderRun, Floats, Ids, places_kept
from .options import DecodingOptions
from .prefix_bias import biased, next_in_prefix
from .results import FinishReason, TokenHypothesis
from .rules import Rule, rules_for
from .sampling import Doubles
from .search import Search, as_hypothesis, refuse_nan, worth_leaving
from .softmax import log_softmax

TextOf: TypeAlias = Callable[[Sequence[int]], str]
"""The text of new tokens."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one text asks of its search."""

    prompt: tuple[int, ...]
    """What the decoder reads before the first new token."""
    limit: int
    """Most new tokens, ``prefix`` included."""
    end_id: int
    options: DecodingOptions = field(default_factory=DecodingOptions)
    prefix: tuple[int, ...] = ()
    """New tokens that are not chosen."""
    soft_prefix: tuple[int, ...] = ()
    """New tokens that are likelier by the ``prefix_bias`` of ``options``."""
    text_of: TextOf | None = None
    """Needed where ``options`` have stop strings."""
    grammar: Rule | None = None
    """Needed where ``options`` have a grammar: its rule for this text alone."""
    more_rules: tuple[Rule, ...] = ()
    """Those of this text alone that come after all others."""
    attention: AttentionOf | None = None
    """Needed where ``options`` have a coverage penalty."""
    name: str = "text 0"
    """Begins messages."""

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens after which a result ends."""
        return frozenset((self.end_id, *self.options.end_ids))

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """What changes logits, in order."""
        rules = rules_for(self.options, self.end_id)
        return (*rules, *(() if self.grammar is None else (self.grammar,)), *self.more_rules)

    @cached_property
    def reads_logits(self) -> bool:
        """Whether the engine's best candidates are not enough."""
        options = self.options
        # Of a row's candidates one is the end token, but more may be others, and any number may complete a stop string.
        unbounded = options.beam_size > 1 and bool(options.stop or options.end_ids)
        prefixed = self.prefix or self.soft_prefix
        return bool(self.rules or prefixed or options.sampling or options.include or unbounded)

    @property
    def width(self) -> int:
        """Candidates a row that the search looks at: enough for every beam to continue one and the same."""
        most = max(self.options.beam_size, self.options.alternatives or 1)
        return max(2 * self.options.beam_size, most + len(self.end_ids))

    @cached_property
    def include(self) -> tuple[tuple[int, ...], ...]:
        """Phrases that a result must hold."""
        return tuple(dict.fromkeys(tuple(p) for p in self.options.include if not isinstance(p, str)))

    def missing(self, tokens: tuple[int, ...]) -> int:
        """Tokens of those phrases that new ``tokens`` lack."""
        return missing(tokens, self.include) if self.include else 0

    def ended(self, tokens: tuple[int, ...]) -> FinishReason | None:
        """Why new ``tokens`` go no further, the limit left out."""
        if tokens[-1] in self.end_ids:
            return "end"
        if self.options.stop and self.text_of is not None:
            text = self.text_of(tokens)
            return "stop" if any(stop in text for stop in self.options.stop) else None
        return None

    def log_probs(self, logits: Floats, new: tuple[int, ...]) -> Doubles:
        """Log-probabilities ``(V,)`` of the token after ``new``, once the rules have changed a copy of ``logits (V,)``.

        Then a soft prefix has its part of them. Where the rules leave nothing, all are minus infinity.
        """
        if self.rules:
            logits = logits.copy()
            read = (*self.prompt, *new)
            for rule in self.rules:
                rule.apply(logits, read, new)
        found, token = log_softmax(logits), next_in_prefix(new, self.soft_prefix)
        if token is None or self.options.prefix_bias is None:
            return found
        return biased(found, token, self.options.prefix_bias)

    def nothing_left(self, new: tuple[int, ...]) -> InputError:
        """The error for options that leave a search nothing to go on with."""
        return InputError(
            f"{self.name}: the options leave no token that may follow after {len(new)} new ones: loosen suppress, "
            "no_repeat_ngram, min_new_tokens, grammar, stop or include"
        )


@dataclass(frozen=True)
class Live:
    """A sequence under way, which ``row`` of its request reads; ``parent`` has read all but its last token."""

    row: int
    parent: int = 0
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    total: float = 0.0

    def extended(self, row: int, token: int, log_prob: float) -> Live:
        """One token longer."""
        return Live(row, self.row, (*self.tokens, token), (*self.log_probs, log_prob), self.total + log_prob)


class RequestSearch(ABC):
    """The search of one text: a state that every step moves on, until it is done."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    @abstractmethod
    def live(self) -> list[Live]:
        """Sequences under way; none when done."""

    @abstractmethod
    def advance(self, best: Candidates, logits: Floats | None) -> None:
        """Take one step from ``best (K, W)`` or ``logits (K, V)`` of the request's rows.

        ``logits`` are there where :attr:`Task.reads_logits` asks for them. Both hold only during the call.
        """

    @abstractmethod
    def interrupt(self, reason: FinishReason) -> None:
        """End as it stands."""

    @abstractmethod
    def results(self) -> list[TokenHypothesis]:
        """What was found, best first; samples and alternatives in their order."""

    @abstractmethod
    def agreed(self) -> tuple[int, ...]:
        """New tokens that every possible best result begins with."""

    def hypothesis(self, live: Live, reason: FinishReason) -> TokenHypothesis:
        """``live`` as a result, ranked by length and coverage."""
        options = self.task.options
        found = as_hypothesis(live.tokens, live.log_probs, reason, options.length_penalty, options.length_norm)
        if not options.coverage_penalty:
            return found
        assert self.task.attention is not None
        penalty = options.coverage_penalty * coverage(self.task.attention(live.tokens))
        return replace(found, normalized_score=found.normalized_score + penalty)


def common_prefix(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all of the sequences begin with."""
    shortest, longest = min(sequences), max(sequences)  # whatever these two share, those between them share as well
    same = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), None)
    return shortest[:same] if same is not None else min(shortest, longest, key=len)


def search_requests(run: DecoderRun, prompts: Ids, requests: Sequence[RequestSearch], rows: int) -> Search:
    """Decode ``prompts (B, T)`` with a run of ``rows`` rows a sentence, as ``requests`` say, one a sentence.

    Raises:
        EngineError: the engine gave NaN.
        InputError: the options leave no token.
    """
    places = list(requests)  # who stands where in the run
    steps = 0
    best = run.prefill(prompts)
    while True:
        refuse_nan(best.log_probs, steps)
        ids, parents = _advance(run, best, places, rows)
        steps += 1
        interrupted = yield ids.reshape(-1)
        if interrupted:
            for request in places:
                request.interrupt(interrupted)
        live = np.array([bool(request.live) for request in places])
        if not live.any():
            return [request.results() for request in requests]
        if worth_leaving(live):
            kept = places_kept(live)
            run.keep(kept)
            places, ids, parents = [places[i] for i in kept], ids[kept], parents[kept]
        first_rows = np.arange(len(places))[:, None] * rows
        best = run.step(ids.reshape(-1), (parents + first_rows).reshape(-1))


def _advance(run: DecoderRun, best: Candidates, places: Sequence[RequestSearch], rows: int) -> tuple[Ids, Ids]:
    """Let every request that is under way take its step. Returns tokens and the rows they continue, both ``(B, K)``."""
    ids = np.zeros((len(places), rows), np.int64)  # rows that are idle read token 0
    parents = np.tile(np.arange(rows), (len(places), 1))
    under_way = [(place, request) for place, request in enumerate(places) if request.live]
    logits = run.last_logits() if any(request.task.reads_logits for _, request in under_way) else None
    for place, request in under_way:
        own = slice(place * rows, (place + 1) * rows)
        request.advance(Candidates(best.log_probs[own], best.ids[own]), None if logits is None else logits[own])
        for live in request.live:
            ids[place, live.row], parents[place, live.row] = live.tokens[-1], live.parent
    return ids, parents
