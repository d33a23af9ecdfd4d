"""What is decoded. A workload is sources of token ids, how many tokens to make of each, and what to vary."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Workload:
    """``exact_tokens``: decode exactly so many; ``None``: until the end token, or ``EXTRA_TOKENS`` past the source.

    One timed pass decodes ``timed[batch]`` sources, spread evenly over the workload's ``sources``.
    """

    name: str
    title: str
    sources: int
    exact_tokens: int | None
    batches: tuple[int, ...]
    beams: tuple[int, ...]
    timed: dict[int, int]
    unit: str
    """What a table says of a pass: ``ms`` a request, or sentences a second, ``s/s``."""


EXTRA_TOKENS = 50
"""How much longer than its source a translation may be (Vaswani et al. 2017, section 6.1)."""
LENGTH_PENALTY = 1.2
"""The best of 0.6, 0.8, 1.0 and 1.2 on Multi30k's validation text, in edgewise's formula and in CTranslate2's."""
SOURCE_TOKENS = 32
"""Tokens of a source of S1, its end token included."""

S1 = Workload(
    name="s1",
    title=f"Marian-base shape, random weights, {SOURCE_TOKENS} source tokens, exactly 64 new ones",
    sources=8,
    exact_tokens=64,
    batches=(1, 8),
    beams=(1, 4),
    timed={1: 1, 8: 8},
    unit="ms",
)
S2 = Workload(
    name="s2",
    title="the shipped translator on Multi30k test_2016_flickr",
    sources=1000,
    exact_tokens=None,
    batches=(1, 32),
    beams=(5,),
    timed={1: 100, 32: 1000},  # alone, every tenth sentence is timed, and all of them are judged
    unit="s/s",
)
WORKLOADS = {workload.name: workload for workload in (S1, S2)}
