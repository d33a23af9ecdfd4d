"""The trigram baseline: it is a distribution, and its numbers are those of the formulas worked with dictionaries."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from edgewise.benchmarks.kneser_ney import KneserNeyTrigram

START, END, V = 1, 2, 9
rng = np.random.default_rng(3)
SENTENCES = [(3 + rng.integers(0, 6, rng.integers(1, 7)) % rng.integers(1, 7)).tolist() for _ in range(60)]


def _discount(counts: Counter[tuple[int, ...]]) -> dict[int, float]:
    n = [max(sum(c == k for c in counts.values()), 1) for k in range(5)]
    y = n[1] / (n[1] + 2 * n[2])
    raw = {k: k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)}
    return {k: min(max(d, 0.0), float(k)) for k, d in raw.items()}


def _naive(history: tuple[int, int], word: int) -> float:
    """One probability, straight from the definition."""
    padded = [[START, *s, END] for s in SENTENCES]
    tri: Counter[tuple[int, ...]] = Counter(tuple(s[i : i + 3]) for s in padded for i in range(len(s) - 2))
    pairs = {tuple(s[i : i + 2]) for s in padded for i in range(len(s) - 1)}
    bi: Counter[tuple[int, ...]] = Counter(t[1:] for t in tri)
    bi.update((START, s[1]) for s in padded)
    uni: Counter[tuple[int, ...]] = Counter((b[1],) for b in pairs)
    p = 1 / V
    for counts, context in ((uni, ()), (bi, history[1:]), (tri, history)):
        discount = _discount(counts)
        after = {g: c for g, c in counts.items() if g[:-1] == context}
        if not after:
            continue
        total = sum(after.values())
        own = after.get((*context, word), 0)
        taken = sum(discount[min(c, 3)] for c in after.values())
        p = (own - discount[min(own, 3)] if own else 0.0) / total + taken / total * p
    return p


def test_it_is_a_distribution() -> None:
    model = KneserNeyTrigram(SENTENCES, V, START, END)
    by_history: dict[tuple[int, ...], float] = defaultdict(float)
    for word in range(V):
        for history in ((3,), (4, 5), (3, 3, 8), (7, 7)):
            by_history[history] += float(np.exp(model.log_probs([[*history, word]])[len(history)]))
    assert list(by_history.values()) == pytest.approx([1.0] * 4)


def test_it_is_the_formula() -> None:
    sentence = [3, 4, 3, 8, 5]
    got = np.exp(KneserNeyTrigram(SENTENCES, V, START, END).log_probs([sentence]))
    padded = [-1, START, *sentence, END]
    want = [_naive((padded[i], padded[i + 1]), padded[i + 2]) for i in range(len(sentence) + 1)]
    assert got == pytest.approx(want)


def test_it_learns() -> None:
    log_probs = KneserNeyTrigram([[3, 4, 5]] * 20 + SENTENCES, V, START, END).log_probs([[3, 4, 5]])
    assert log_probs.sum() > KneserNeyTrigram(SENTENCES, V, START, END).log_probs([[3, 4, 5]]).sum()
