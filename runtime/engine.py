"""What decoding sees of an engine: small protocols, and nothing of the library behind them.

Letters as everywhere in edgewise: ``B`` sentences, ``K`` beams, ``R = B * K`` rows (row ``b * K + k``), ``T`` tokens of
this call, ``S`` source tokens, ``V`` vocabulary, ``D`` width.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]
Memory: TypeAlias = Any
"""What an engine keeps of encoded sources. Only the engine that made it can read it."""


class Candidates(NamedTuple):
    """The ``k`` best next tokens of every row, best first; of equals the lower id first.

    Both arrays may be the engine's own buffers: they hold until the next call of the same run.
    """

    log_probs: Floats
    """``(R, k)``, log-softmax over the whole vocabulary (nats)."""
    ids: Ids
    """``(R, k)``."""


class DecoderRun(Protocol):
    """The decoder state of one request. Owned by one thread; its memory is freed with it."""

    def prefill(self, ids: Ids) -> Candidates:
        """Read the prompts ``ids (B, T)``, ``T >= 1``, equally long, unpadded. The ``K`` rows of a sentence agree."""
        ...

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """Row ``r`` continues row ``parents[r]``, one of the same sentence, with token ``ids[r]``; both ``(R,)``."""
        ...

    def keep(self, sentences: Ids) -> None:
        """Let the other sentences go, between steps: sentence ``i`` is from now on what ``sentences[i]`` was.

        Each of ``sentences`` is its own place ``i``, or comes from beyond the places that remain: so that an engine
        moves little. :func:`places_kept` makes such a list. Candidates handed out before no longer hold.
        """
        ...

    def last_logits(self) -> Floats:
        """Logits ``(R, V)`` of the latest call, which hold until the next; plain greedy and beam search do without."""
        ...


class OpenRun(Protocol):
    """A decoder state that sentences join and leave between steps, each with a number of tokens of its own.

    Owned by one thread; its memory is freed with it. Apart from its own length a sentence is one of a
    :class:`DecoderRun`: ``K`` rows each, in the order of joining but for what :meth:`keep` moves.
    """

    def join(self, memory: Memory, prompts: Ids, capacity: int) -> None:
        """Add ``B`` sentences behind those that are there: ``prompts (B, T)``, and the ``memory`` of their sources.

        All of a prompt but its last token is read now. That token is what every row of the sentence is given in the
        next step, as its own parent. A sentence reads ``capacity`` tokens at most, its prompt included.
        """
        ...

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """See :meth:`DecoderRun.step`."""
        ...

    def keep(self, sentences: Ids) -> None:
        """See :meth:`DecoderRun.keep`. What leaves makes room for what joins."""
        ...

    def last_logits(self) -> Floats:
        """See :meth:`DecoderRun.last_logits`."""
        ...


class VerifyingRun(DecoderRun, Protocol):
    """A run of one row that reads several tokens at once, and takes tokens back."""

    def verify(self, ids: Ids) -> Candidates:
        """Read ``ids (T,)``, one after the other: ``(T, k)``, and ``last_logits`` ``(T, V)``.

        Row ``t`` is to the bit what :meth:`step` would have given for ``ids[t]`` after those before it. ``T`` is at
        most the engine's ``verify_tokens``, and so many positions have to be free, whatever ``T`` is.
        """
        ...

    def rewind(self, tokens: int) -> None:
        """Forget the ``tokens`` read last."""
        ...


class Engine(Protocol):
    """One opened variant. Safe to share between threads: state lives in runs, and no lock is held while one works."""

    @property
    def verify_tokens(self) -> int:
        """Most tokens that :meth:`VerifyingRun.verify` reads at once; 0 where runs have no such thing."""
        ...

    def start_verifying(self, memory: Memory, capacity: int, candidates: int) -> VerifyingRun:
        """As :meth:`start`, one sentence in one row.

        Raises:
            EngineError: ``verify_tokens`` is 0.
        """
        ...

    def encode_source(self, ids: Ids, mask: Mask) -> Memory:
        """Encoder-decoder: read right-padded sources ``ids (B, S)``; ``mask (B, S)`` is false for padding."""
        ...

    def encode_features(self, features: Floats) -> Memory:
        """Encoder-decoder that hears: read log-mel ``features (B, bands, frames)`` of one window each."""
        ...

    def start(self, memory: Memory, batch: int, beams: int, capacity: int, candidates: int) -> DecoderRun:
        """Begin a request of ``batch`` sentences and ``capacity`` decoder positions; ``candidates`` a row and step.

        ``memory`` is ``None`` for a decoder-only model.
        """
        ...

    def open_run(self, beams: int, candidates: int) -> OpenRun | None:
        """A run without sentences, which join it later; ``None`` where the variant has no graph for that."""
        ...

    def decoder_logits(self, memory: Memory, ids: Ids, mask: Mask) -> Floats:
        """One teacher-forced pass over right-padded ``ids (B, T)`` with ``mask (B, T)``: logits ``(B, T, V)``."""
        ...

    def cross_attention(self, memory: Memory, sentences: Ids, ids: Ids) -> Floats:
        """Weights ``(N, T, S)`` with which tokens look at their source: row ``n`` of ``ids (N, T)``, padded on the
        right, looks at sentence ``sentences[n]`` of ``memory``.

        The mean over the heads of the layer that the bundle names; each row of ``S`` sums to one, and padding of the
        source has none. Asked only of variants with a graph ``alignment``.
        """
        ...

    def encode(
        self, ids: Ids, mask: Mask, logit_index: Ids | None, segments: Ids | None = None
    ) -> tuple[Floats, Floats]:
        """Encoder-only: hidden states ``(B, S, D)``, ``D`` of 0 where the graph gives none, and what the head makes of
        them.

        Logits ``(B, N, V)`` at positions ``logit_index (B, N)`` with a vocabulary head, where ``None`` means position
        0; logits ``(B, classes)`` with a ``classes`` head, ``(B, S, classes)`` with ``tags`` and, of two classes, with
        ``span``; vectors ``(B, D)`` with an ``embedding`` head. ``segments (B, S)``: which of a pair's texts a token is
        in; ``None``: the first.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Engine, version, device and threads, for people to read."""
        ...


def places_kept(live: Mask) -> Ids:
    """What to :meth:`~DecoderRun.keep` of sentences of which ``live (B,)`` are wanted.

    The last of them fill the places of those that go: ``[1, 0, 1, 0, 1] -> [0, 4, 2]``.
    """
    count = int(live.sum())
    places = np.arange(count)
    places[~live[:count]] = np.flatnonzero(live[count:]) + count
    return places
