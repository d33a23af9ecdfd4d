"""How much a reference is asked: all there is of a small network, less of one that would take hours.

The naive search reads the whole prefix at every step, once for greedy and once for every beam; so a network of ``W``
weights spends about ``W * (1 + beams) * steps * (length + steps / 2)`` multiply-adds on a text. A network that cannot
be asked everything so is asked with a cache (:mod:`edgewise.models.cached`): it reads a text three times, and every
step once for greedy, once for every beam and once in the pass that the numbers come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .probes import LONGEST, SWEEP_NEW_TOKENS, Probe

EFFORT = 2e13
"""Multiply-adds that all texts together may take naively: some twenty minutes on one core. The shipped models need
less."""
CACHED_EFFORT = 2e12
"""Multiply-adds that all texts together may take with a cache: a few minutes, for steps wait for memory."""
MOST_STEPS = 64
FEWEST_STEPS = 2
SHORTEST_ROOM = 64


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a network of ``weights`` parameters, decoded with ``beams``, naively or ``cached``, can be asked."""

    weights: int
    beams: int
    cached: bool = False

    @property
    def most(self) -> float:
        """Multiply-adds that all texts together may take."""
        return CACHED_EFFORT if self.cached else EFFORT

    def cost(self, length: int, steps: int) -> float:
        """Multiply-adds of one text of ``length`` tokens and ``steps`` new ones, greedy and by beams."""
        if self.cached:
            return self.weights * (3 * length + (2 + self.beams) * steps)
        return self.weights * (1 + self.beams) * steps * (length + steps / 2)

    def room(self, most: int) -> int:
        """Tokens of the longest text: ``most``, if a few steps behind it take a quarter of the effort or less."""
        a_token = (self.cost(1001, FEWEST_STEPS) - self.cost(1, FEWEST_STEPS)) / 1000
        return min(most, max(SHORTEST_ROOM, int(self.most / 4 / a_token)))

    def steps(self, lengths: Sequence[int]) -> int:
        """New tokens of every ordinary text: as many as half of the effort is enough for."""
        steps = MOST_STEPS
        while steps > FEWEST_STEPS and sum(self.cost(length, steps) for length in lengths) > self.most / 2:
            steps //= 2
        return steps

    def kept(self, probes: Sequence[Probe], length: int) -> list[Probe]:
        """All probes but the sweeps, of ``length`` tokens, that a quarter of the effort is not enough for."""
        sweeps = max(1, int(self.most / 4 / self.cost(length, SWEEP_NEW_TOKENS)))
        rest = iter(range(sweeps))
        return [probe for probe in probes if not probe.short or next(rest, None) is not None]


def ordinary(probes: Sequence[Probe]) -> list[Probe]:
    """Those that are decoded for more than a few steps, but for the longest."""
    return [probe for probe in probes if not probe.short and probe.name != LONGEST]
