"""Speculative decoding without a second model: tokens that were seen before are proposed, and read several at once.

What follows the last few tokens where they stood before, in the prompt or source or in what is written so far, may
follow here too: prompt lookup (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding), and for a translation input
copy (Ge et al. 2022, "Lossless Acceleration for Seq2seq Generation with Aggressive Decoding"). One pass reads the
proposed tokens behind the one that was chosen, and gives for each what a step would have given.

:class:`SpeculativeRun` stands between a search and its engine and looks to the search like any run: it is asked for one
step after another, and answers those whose token was proposed from the pass that has read it. Whatever the search
chooses by (most probable token, rules, a grammar, draws) it chooses from the numbers that it would have got without,
so results are the same; and what ends a search between two steps ends it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .bundle import signature as names
from .bundle.manifest import Variant
from .engine import Candidates, Floats, Ids, VerifyingRun
from .options import DecodingOptions
from .results import Speculation

LONGEST = 3
"""Tokens of the longest sequence that is looked for; if it was not seen before, a shorter one is."""
SHORTEST = 2
"""One token alone says too little of the next: what it proposes is mostly refused."""

_NOTHING = -1  # between two texts: no token has this id


class Lookup:
    """What followed the last tokens the last time they were seen; grows by one token at a time."""

    def __init__(self, source: Sequence[int] = ()) -> None:
        """``source``: a text from which tokens may be copied, that is not itself continued."""
        self._read: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in (*source, _NOTHING):
            self.append(token)

    def append(self, token: int) -> None:
        """``token`` is the next of the text."""
        place = len(self._read)
        for n in range(SHORTEST, min(LONGEST, place) + 1):
            self._after[tuple(self._read[place - n :])] = place
        self._read.append(token)

    def propose(self, most: int) -> list[int]:
        """Up to ``most`` tokens that may follow, of a text that repeats itself as often as it takes."""
        read = self._read
        for n in range(min(LONGEST, len(read)), SHORTEST - 1, -1):
            place = self._after.get(tuple(read[-n:]))
            if place is not None:
                return _copied(read, place, most)
        return []


def _copied(read: Sequence[int], place: int, most: int) -> list[int]:
    """``most`` tokens from ``place`` on, those that are copied included, up to the end of a text."""
    found: list[int] = []
    while len(found) < most:
        behind = place + len(found) - len(read)
        token = found[behind] if behind >= 0 else read[place + len(found)]
        if token == _NOTHING:
            break
        found.append(token)
    return found


@dataclass
class Tally:
    """Counts as it goes; see :class:`~edgewise.runtime.results.Speculation`."""

    passes: int = 0
    proposed: int = 0
    accepted: int = 0

    def result(self) -> Speculation:
        """As it stands."""
        return Speculation(passes=self.passes, proposed=self.proposed, accepted=self.accepted)


class SpeculativeRun:
    """A :class:`~edgewise.runtime.engine.DecoderRun` of one sentence and one row over an engine's own."""

    def __init__(
        self, run: VerifyingRun, lookup: Lookup, *, most: int, window: int, capacity: int, tally: Tally
    ) -> None:
        """``most`` tokens are proposed at once; a pass takes ``window`` of the ``capacity`` positions of ``run``."""
        self._run, self._lookup, self._tally = run, lookup, tally
        self._most, self._window, self._capacity = most, window, capacity
        self._length = 0  # tokens that were chosen and read
        self._ahead: list[int] = []  # proposed tokens that were read, and not yet asked for
        self._row: int | None = None  # of the latest pass over several tokens, what was asked for last
        self._best: Candidates | None = None

    def prefill(self, ids: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        for token in ids[0].tolist():
            self._lookup.append(token)
        self._length, self._tally.passes = ids.shape[1], self._tally.passes + 1
        return self._run.prefill(ids)

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`; without a pass where ``ids`` is what was proposed."""
        token = ids.item(0)
        self._lookup.append(token)
        self._length += 1
        if self._ahead and self._ahead[0] == token and self._row is not None:
            del self._ahead[0]
            self._row += 1
            self._tally.accepted += 1
            return self._answer()
        self._run.rewind(len(self._ahead))
        return self._read(ids, parents)

    def _read(self, ids: Ids, parents: Ids) -> Candidates:
        """A pass that begins with the chosen token."""
        fits = self._length - 1 + self._window <= self._capacity
        self._ahead = self._lookup.propose(self._most) if fits else []
        self._tally.passes += 1
        self._tally.proposed += len(self._ahead)
        if not self._ahead:
            self._row = None
            return self._run.step(ids, parents)
        self._row, self._best = 0, self._run.verify(np.array([ids.item(0), *self._ahead]))
        return self._answer()

    def _answer(self) -> Candidates:
        assert self._best is not None and self._row is not None
        row = slice(self._row, self._row + 1)
        return Candidates(self._best.log_probs[row], self._best.ids[row])

    def keep(self, sentences: Ids) -> None:
        """See :class:`~edgewise.runtime.engine.DecoderRun`. The one sentence stays."""

    def last_logits(self) -> Floats:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        logits = self._run.last_logits()
        return logits if self._row is None else logits[self._row : self._row + 1]


def refuse_company(options: DecodingOptions) -> None:
    """Refuse a text that speculates in a batch that texts join and leave, whose rows read one token a step.

    Raises:
        InputError: says what to leave out.
    """
    if options.speculate:
        raise InputError(
            f"speculate ({options.speculate}) reads several tokens of one text at once, and texts that share steps "
            "read one each: leave out speculate, or translate and stream it alone, without `continuous` and with "
            "`Session`"
        )


def refuse_speculation(variant: Variant, tokens: int, options: DecodingOptions) -> None:
    """Refuse to speculate on an engine that reads ``tokens`` at once, 0 if it cannot take tokens back.

    Raises:
        InputError: it cannot, or not so many.
    """
    if options.speculate is None:
        return
    if not tokens:
        raise InputError(
            f"speculate ({options.speculate}) needs the graph {names.VERIFY!r}, which {variant.name} lacks: "
            f"{_remedy(variant)}"
        )
    if options.speculate >= tokens:
        raise InputError(
            f"speculate ({options.speculate}) must be at most {tokens - 1}: {variant.name} reads {tokens} tokens at "
            "once, and the first of them is chosen"
        )


def _remedy(variant: Variant) -> str:
    if variant.target == "openvino":
        return "OpenVINO's cache takes no token back; open target 'cpu', or leave speculate out"
    if variant.precision == "int8-fast":
        return "its numbers depend on what is read together; open precision 'int8', or leave speculate out"
    return "the bundle was made before there was one; export it again, or leave speculate out"
