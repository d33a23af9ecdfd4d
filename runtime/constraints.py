"""Phrases that must appear: dynamic beam allocation (Post & Vilar 2018).

Every continuation belongs to a *bank*, the number of tokens of the phrases that it holds: whole phrases, and as much of
an unfinished one as stands at its end. The ``K`` beams are shared out among the banks, so that beams which are on the
way to a phrase, which costs probability, live beside those that are not. Only what holds every phrase may end.

The paper takes candidates from the best ``K`` of all, the best of every beam, and the next tokens of the phrases; here
all continuations are candidates, which the banks then choose from.
"""

from __future__ import annotations

from collections.abc import Sequence

Phrases = Sequence[Sequence[int]]


def missing(tokens: Sequence[int], phrases: Phrases) -> int:
    """Tokens of ``phrases`` that ``tokens`` still lack; 0 if all are there."""
    lacking = [tuple(phrase) for phrase in phrases if not _holds(tokens, phrase)]
    begun = max((_begun(tokens, phrase) for phrase in lacking), default=0)
    return sum(map(len, lacking)) - begun


def share_out(beams: int, candidates: Sequence[int]) -> list[int]:
    """How many of ``beams`` each bank gets; ``candidates``: how many continuations each has, most complete bank last.

    Equal shares, and the remainder for the last bank. What a bank has no candidates for goes to the nearest bank that
    has more, to a less complete one of two as near, beginning with the most complete bank.
    """
    banks = len(candidates)
    shares = [beams // banks] * banks
    shares[-1] += beams - sum(shares)
    for bank in reversed(range(banks)):
        for other in sorted(range(banks), key=lambda i: (abs(i - bank), i)):
            surplus, room = max(0, shares[bank] - candidates[bank]), max(0, candidates[other] - shares[other])
            moved = min(surplus, room)
            shares[bank] -= moved
            shares[other] += moved
    return [min(share, count) for share, count in zip(shares, candidates, strict=True)]


def _holds(tokens: Sequence[int], phrase: Sequence[int]) -> bool:
    size = len(phrase)
    return any(tuple(tokens[i : i + size]) == tuple(phrase) for i in range(len(tokens) - size + 1))


def _begun(tokens: Sequence[int], phrase: Sequence[int]) -> int:
    """Length of the longest beginning of ``phrase`` that ``tokens`` end with."""
    longest = min(len(tokens), len(phrase) - 1)
    return next((n for n in range(longest, 0, -1) if tuple(tokens[-n:]) == tuple(phrase[:n])), 0)
