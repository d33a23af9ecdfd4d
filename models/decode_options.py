"""The oracle of decoding options: the same rules as :mod:`edgewise.runtime`, in the plainest way.

Everything re-runs the whole prefix at every step, as in :mod:`edgewise.models.decode`, looks at every token of the
vocabulary with Python's own lists, and knows nothing of the runtime.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .attention import cross_attention_weights
from .decode import length_norm, next_logits, prompts_of, remember
from .transformer import Transformer

Reason = Literal["end", "length", "stop"]
TextOf = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be asked; names and meaning as in ``edgewise.runtime.options.DecodingOptions``."""

    beam_size: int = 1
    length_penalty: float = 0.6
    coverage_penalty: float = 0.0
    early_stopping: bool | Literal["never"] = False
    patience: float = 1.0
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    n_best: int = 1
    alternatives: int | None = None
    max_new_tokens: int = 20
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int | None = None
    suppress: Sequence[Sequence[int]] = ()
    include: Sequence[Sequence[int]] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: Sequence[str] = ()
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    prefix: Sequence[int] = ()
    prefix_bias: float | None = None


@dataclass(frozen=True)
class Naive:
    """A sequence under way or finished; ``reason`` is ``None`` for one that goes on."""

    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    reason: Reason | None = None
    penalty: float = 0.0
    """Of coverage, once it is finished; at most 0."""

    @property
    def total(self) -> float:
        """Sum of the log-probabilities (nats)."""
        return sum(self.log_probs)

    def ranked(self, length_penalty: float) -> float:
        """The total after the length penalty and that of coverage."""
        return self.total / length_norm(len(self.tokens), length_penalty) + self.penalty


class Margin:
    """The smallest difference that any choice hung on: numbers that differ by less choose the same."""

    def __init__(self) -> None:
        self.value = math.inf

    def note(self, *differences: float) -> None:
        """Look at the size of some differences."""
        self.value = min([self.value, *(abs(d) for d in differences)])


def ruled(
    logits: Sequence[float], read: Sequence[int], new: Sequence[int], options: Options, end_id: int
) -> list[float]:
    """Log-probabilities after the rules: bias, repetition, counts, n-grams, suppressed sequences, length."""
    scores = [z + options.logit_bias.get(i, 0.0) for i, z in enumerate(logits)]
    for i in set(read):
        scores[i] = scores[i] / options.repetition_penalty if scores[i] > 0 else scores[i] * options.repetition_penalty
    for i in set(new):
        scores[i] -= options.presence_penalty + options.frequency_penalty * list(new).count(i)
    for i in range(len(scores)):
        longer = [*read, i]
        n = options.no_repeat_ngram
        grams = [longer[j : j + n] for j in range(len(longer) - n + 1)] if n else []
        repeats = bool(grams) and grams[-1] in grams[:-1]
        bad = any(longer[-len(s) :] == list(s) for s in options.suppress)
        if repeats or bad or (i == end_id and len(new) < options.min_new_tokens):
            scores[i] = -math.inf
    return log_softmax(scores)


def log_softmax(scores: Sequence[float]) -> list[float]:
    """Log-probabilities of ``scores``."""
    best = max(scores)
    normalizer = best + math.log(sum(math.exp(s - best) for s in scores))
    return [s - normalizer for s in scores]


class Decoder:
    """One source, its options, and what the network says after any prefix."""

    def __init__(self, model: Transformer, source: Sequence[int], options: Options, text_of: TextOf | None = None):
        self.model, self.options, self.text_of, self.source = model, options, text_of, source
        self.end_id = model.config.end_id
        self.prompt = prompts_of(model, [source])[0]
        with torch.inference_mode():
            self.memory = remember(model, [source])
        self.margin = Margin()

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> list[float]:
        """Raw logits of the token after the prompt and ``tokens``."""
        row: Tensor = next_logits(self.model, self.memory, [[*self.prompt, *tokens]])[0]
        found: list[float] = row.double().tolist()
        return found

    def log_probs(self, tokens: Sequence[int]) -> list[float]:
        """Log-probabilities after the rules, and after the bias towards a prefix that is not certain."""
        found = ruled(self.logits(tokens), [*self.prompt, *tokens], tokens, self.options, self.end_id)
        beta, prefix, step = self.options.prefix_bias, list(self.options.prefix), len(tokens)
        if beta is None or step >= len(prefix) or list(tokens) != prefix[:step] or found[prefix[step]] == -math.inf:
            return found
        mixed = [(1 - beta) * math.exp(p) + (beta if i == prefix[step] else 0.0) for i, p in enumerate(found)]
        return [math.log(p) if p > 0 else -math.inf for p in mixed]

    def extended(self, naive: Naive, token: int, log_prob: float) -> Naive:
        """``naive`` and one more token, ended where it has to end, the limit left out."""
        tokens = (*naive.tokens, token)
        reason: Reason | None = "end" if token == self.end_id else None
        if reason is None and self.options.stop and self.text_of:
            reason = "stop" if any(s in self.text_of(tokens) for s in self.options.stop) else None
        return Naive(tokens, (*naive.log_probs, log_prob), reason)

    def finished(self, naive: Naive, reason: Reason) -> Naive:
        """``naive`` as it ends, with the penalty for what of the source its tokens did not look at.

        ``beta * sum_i log(min(sum_j p_ij, 1))``, Wu et al. 2016, equation 14, over the last layer's attention; a sum
        below 1e-10 counts as that.
        """
        penalty = 0.0
        if self.options.coverage_penalty:
            assert self.model.config.decoder is not None
            read, last = [*self.prompt, *naive.tokens[:-1]], self.model.config.decoder.n_layers - 1
            weights = cross_attention_weights(self.model, self.source, read, last).double().mean(0).tolist()
            for i in range(len(self.source)):
                attention = sum(row[i] for row in weights)
                penalty += self.options.coverage_penalty * math.log(min(max(attention, 1e-10), 1.0))
        return Naive(naive.tokens, naive.log_probs, reason, penalty)

    def order(self, naive: Naive) -> tuple[int, float]:
        """What finished sequences are sorted by: those that hold most of what they must, then the best."""
        return -held(naive.tokens, self.options.include), -naive.ranked(self.options.length_penalty)

    def forced(self) -> Naive:
        """The prefix where it is certain, with the probabilities that the network itself gives it."""
        naive = Naive()
        for token in self.options.prefix if self.options.prefix_bias is None else ():
            naive = Naive((*naive.tokens, token), (*naive.log_probs, log_softmax(self.logits(naive.tokens))[token]))
        return naive


def sample(
    model: Transformer, source: Sequence[int], options: Options, seed: int, samples: int, text_of: TextOf | None = None
) -> tuple[list[Naive], float]:
    """``samples`` draws, each alone; and the smallest margin of any choice."""
    decoder = Decoder(model, source, options, text_of)
    found = []
    for j in range(samples):
        generator, naive = np.random.default_rng([seed, j]), decoder.forced()
        while naive.reason is None:
            if len(naive.tokens) == options.max_new_tokens:
                naive = Naive(naive.tokens, naive.log_probs, "length")
                break
            log_probs = decoder.log_probs(naive.tokens)
            token = drawn(draw_probabilities(log_probs, options, decoder.margin), generator.random(), decoder.margin)
            naive = decoder.extended(naive, token, log_probs[token])
        found.append(naive)
    return found, decoder.margin.value


def draw_probabilities(log_probs: Sequence[float], options: Options, margin: Margin) -> dict[int, float]:
    """Token -> probability of what may be drawn: temperature, top-k, top-p, min-p, typical, in this order."""
    hot = log_softmax([p / options.temperature for p in log_probs])
    kept = {i: math.exp(p) for i, p in enumerate(hot) if p > -math.inf}
    if options.top_k is not None:
        least = sorted(kept.values(), reverse=True)[: options.top_k][-1]
        margin.note(*(p - least for p in kept.values() if p != least))
        kept = _normalized({i: p for i, p in kept.items() if p >= least})
    if options.top_p is not None:
        kept = _until(kept, sorted(kept, key=lambda i: (-kept[i], i)), options.top_p, margin)
    if options.min_p is not None:
        least = options.min_p * max(kept.values())
        margin.note(*(p - least for p in kept.values()))
        kept = _normalized({i: p for i, p in kept.items() if p >= least})
    if options.typical_p is not None:
        entropy = -sum(p * math.log(p) for p in kept.values())
        far = {i: abs(-math.log(p) - entropy) for i, p in kept.items()}
        order = sorted(kept, key=lambda i: (far[i], i))
        margin.note(*(far[a] - far[b] for a, b in itertools.pairwise(order)))
        kept = _until(kept, order, options.typical_p, margin)
    return kept


def _until(kept: dict[int, float], order: Sequence[int], mass: float, margin: Margin) -> dict[int, float]:
    """The first of ``order`` whose probabilities reach ``mass``."""
    chosen: dict[int, float] = {}
    for i in order:
        chosen[i] = kept[i]
        if mass < 1:
            margin.note(sum(chosen.values()) - mass)
        if sum(chosen.values()) >= mass:
            break
    return _normalized(chosen)


def _normalized(kept: dict[int, float]) -> dict[int, float]:
    total = sum(kept.values())
    return {i: p / total for i, p in kept.items()}


def drawn(probabilities: Mapping[int, float], uniform: float, margin: Margin) -> int:
    """The token whose share of [0, 1), in the order of ids, holds ``uniform``."""
    edge = 0.0
    for i in sorted(probabilities):
        edge += probabilities[i]
        margin.note(edge - uniform)
        if uniform < edge:
            return i
    return max(probabilities)


def held(tokens: Sequence[int], phrases: Sequence[Sequence[int]]) -> int:
    """How many tokens of ``phrases`` are there: of whole phrases, and of the longest beginning of one at the end."""
    text = "," + "".join(f"{t}," for t in tokens)
    written = ["," + "".join(f"{t}," for t in phrase) for phrase in phrases]
    whole = sum(len(p) for p, w in zip(phrases, written, strict=True) if w in text)
    others = [p for p, w in zip(phrases, written, strict=True) if w not in text]
    begun = [n for p in others for n in range(1, len(p)) if list(tokens[-n:]) == list(p[:n])]
    return whole + max(begun, default=0)


def shares(beams: int, counts: Sequence[int]) -> list[int]:
    """How many beams each bank gets: one beam after the other is given away.

    Every bank has equally many to give, the last also the remainder. From the last bank to the first, each beam goes
    to the nearest bank that has a continuation left, to the lower one of two; its own bank is the nearest.
    """
    banks = len(counts)
    own = [beams // banks] * banks
    own[-1] += beams - sum(own)
    given = [min(share, count) for share, count in zip(own, counts, strict=True)]
    for bank in range(banks - 1, -1, -1):
        for _ in range(max(0, own[bank] - counts[bank])):
            free = [b for b in range(banks) if counts[b] > given[b]]
            if free:
                nearest = min(free, key=lambda b: (abs(b - bank), b))
                given[nearest] += 1
    return given


class Group:
    """Live and finished sequences of one group of beams."""

    def __init__(self, decoder: Decoder, size: int) -> None:
        self.decoder, self.options, self.size = decoder, decoder.options, size
        self.pool_size = max(1, round(size * decoder.options.patience))
        self.live = [decoder.forced()]
        self.finished: list[Naive] = []
        self.done = False

    def continuations(self, taken: Sequence[int]) -> list[tuple[float, Naive]]:
        """Every possible next sequence and what it is ranked by, best first; of equals lower beam, then lower id."""
        found = []
        for beam, naive in enumerate(self.live):
            for token, log_prob in enumerate(self.decoder.log_probs(naive.tokens)):
                if log_prob > -math.inf:
                    rank = naive.total + log_prob - self.options.diversity_penalty * list(taken).count(token)
                    found.append((-rank, beam, token, log_prob))
        found.sort(key=lambda f: f[:3])
        return [(-rank, self.decoder.extended(self.live[b], t, p)) for rank, b, t, p in found]

    def step(self, taken: Sequence[int], skip: int = 0) -> list[int]:
        """Take one step; ``taken``: what groups before took in it. Returns what this one took."""
        ranked = self.continuations(taken)[skip:]
        alive = [f for bank, share in self.banks(ranked) for f in self.take(bank, share)]
        self.live = [naive for _, naive in sorted(alive, key=ranked.index)]
        self.done = self.is_done()
        if self.live and len(self.live[0].tokens) == self.options.max_new_tokens:
            for naive in self.live:
                self.finish(self.decoder.finished(naive, "length"))
            self.done = True
        return [naive.tokens[-1] for naive in self.live]

    def take(self, ranked: list[tuple[float, Naive]], size: int) -> list[tuple[float, Naive]]:
        """The best ``size`` that go on; what ends within the first ``size`` ranks is finished."""
        for _, naive in ranked[:size]:
            if naive.reason:
                self.finish(self.decoder.finished(naive, naive.reason))
        alive = [(rank, naive) for rank, naive in ranked if not naive.reason]
        self.note(ranked[: size + 1], alive[: size + 1])
        return alive[:size]

    def banks(self, ranked: list[tuple[float, Naive]]) -> list[tuple[list[tuple[float, Naive]], int]]:
        """Continuations by how much they hold of what they must, and how many of the beams each kind gets."""
        wanted = self.options.include
        total = sum(map(len, wanted))
        banks: list[list[tuple[float, Naive]]] = [[] for _ in range(total + 1)]
        for rank, naive in ranked:
            met = held(naive.tokens, wanted)
            if met == total or not naive.reason:
                banks[met].append((rank, naive))
        return list(zip(banks, shares(self.size, [len(bank) for bank in banks]), strict=True))

    def note(self, ranked: list[tuple[float, Naive]], alive: list[tuple[float, Naive]]) -> None:
        """Note what this step hung on: who lives, in which order, and who ended within the first ranks."""
        margin = self.decoder.margin
        for found in (ranked, alive):
            margin.note(*(a[0] - b[0] for a, b in itertools.pairwise(found)))

    def finish(self, naive: Naive) -> None:
        """Add to the finished, of which the best ``pool_size`` are kept; of equals the one that came first."""
        penalty, margin = self.options.length_penalty, self.decoder.margin
        margin.note(*(naive.ranked(penalty) - other.ranked(penalty) for other in self.finished))
        self.finished = sorted([*self.finished, naive], key=self.decoder.order)[: self.pool_size]

    def is_done(self) -> bool:
        """Whether nothing that is live is waited for."""
        if not self.live:
            return True
        if len(self.finished) < self.pool_size:
            return False
        if self.options.early_stopping is True:
            return True
        length = len(self.live[0].tokens) if self.options.early_stopping is False else self.options.max_new_tokens
        best = max(naive.total for naive in self.live) / length_norm(length, self.options.length_penalty)
        worst = min(naive.ranked(self.options.length_penalty) for naive in self.finished)
        self.decoder.margin.note(worst - best)
        return worst >= best


def beam(
    model: Transformer, source: Sequence[int], options: Options, text_of: TextOf | None = None
) -> tuple[list[Naive], float]:
    """Greedy search, beam search, groups of beams, or alternatives; and the smallest margin of any choice."""
    decoder = Decoder(model, source, options, text_of)
    if options.alternatives:
        return _alternatives(decoder, options.alternatives), decoder.margin.value
    groups = [Group(decoder, options.beam_size // options.beam_groups) for _ in range(options.beam_groups)]
    if len(options.prefix) == options.max_new_tokens and options.prefix_bias is None:
        return [decoder.finished(decoder.forced(), "length")], math.inf
    while not all(group.done for group in groups):
        taken: list[int] = []
        for group in groups:
            if not group.done:
                taken += group.step(taken)
    best = sorted((f for g in groups for f in g.finished), key=decoder.order)
    total = sum(map(len, options.include))
    best = [f for f in best if held(f.tokens, options.include) == total] or best
    ranks = [f.ranked(options.length_penalty) for f in best]
    decoder.margin.note(*(a - b for a, b in itertools.pairwise(ranks) if a != b))
    return best[: options.n_best], decoder.margin.value


def _alternatives(decoder: Decoder, count: int) -> list[Naive]:
    """The most probable first tokens, each continued greedily."""
    found = []
    for rank in range(count):
        group = Group(decoder, 1)
        if len(group.continuations(())) <= rank:
            break
        group.step((), skip=rank)
        while not group.done:
            group.step(())
        found += group.finished[:1]
    return found
