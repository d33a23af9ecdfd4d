"""Keyword arguments of the methods that decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from .decoding import Progress as Done
from .interrupt import Cancellation
from .options import EarlyStopping, Grammar, LengthNorm, Overflow, Phrase, Sampling


class StreamArguments(TypedDict, total=False):
    """Keyword arguments of decoding: those of :class:`~edgewise.runtime.options.DecodingOptions`, and two more.

    What is left out or ``None`` is as the bundle recommends (:mod:`edgewise.runtime.defaults`); with sampling or
    alternatives, ``beam_size`` is 1. ``sampling="recommended"`` draws as the bundle recommends. ``prefix``: what a
    result has to begin with, for all texts or one for each; with a ``prefix_bias``, what it is likelier to begin with.
    ``cancellation``: ends the decoding from another thread.
    """

    beam_size: int | None
    length_penalty: float | None
    length_norm: LengthNorm
    coverage_penalty: float
    early_stopping: EarlyStopping
    patience: float
    beam_groups: int
    diversity_penalty: float
    n_best: int
    alternatives: int | None
    sampling: Sampling | Literal["recommended"] | None
    max_new_tokens: int | None
    min_new_tokens: int
    end_ids: Sequence[int]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram: int | None
    suppress: Sequence[Phrase]
    include: Sequence[Phrase]
    logit_bias: Mapping[int, float]
    grammar: Grammar | None
    stop: Sequence[str]
    deadline: float | None
    overflow: Overflow
    speculate: int | None
    prefix: str | Sequence[str]
    prefix_bias: float | None
    cancellation: Cancellation | None


class DecodingArguments(StreamArguments, total=False):
    """Keyword arguments of decoding several texts: :class:`StreamArguments`, and how they go through.

    ``batch_size`` texts at most go through the engine together, and no more source tokens, padding included, than
    ``max_batch_tokens``. ``progress(done, texts)`` is called after every batch. ``alignments`` adds to every hypothesis
    which words of the source its words were made from.
    """

    alignments: bool
    batch_size: int
    max_batch_tokens: int | None
    progress: Done | None


class IteratingArguments(DecodingArguments, total=False):
    """Keyword arguments of decoding texts one by one: :class:`DecodingArguments`, and ``continuous``.

    ``continuous``: the place of a text that is done goes to the next one at once, so that no text waits for the longest
    of its batch, whatever their lengths; then ``progress`` is called after every text. Here its ``texts`` are those
    that have been read so far.
    """

    continuous: bool
