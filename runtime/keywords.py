"""Keyword arguments of the methods that decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from .bundle.speech import SpeechTask
from .decoding import Progress as Done
from .interrupt import Cancellation
from .languages import Language
from .options import EarlyStopping, Grammar, LengthNorm, Overflow, Phrase, Sampling


class StreamArguments(TypedDict, total=False):
    """Keyword arguments of decoding: those of :class:`~edgewise.runtime.options.DecodingOptions`, and two more.

    What is left out or ``None`` is as the bundle recommends (:mod:`edgewise.runtime.defaults`); with sampling or
    alternatives, ``beam_size`` is 1. ``sampling="recommended"`` draws as the bundle recommends. ``prefix``: what a
    result has to begin with, for all texts or one for each; with a ``prefix_bias``, what it is likelier to begin with.
    ``cancellation``: ends the decoding from another thread. ``source``, ``target``: the languages of texts and of their
    translations, by the codes that the bundle knows, one for all or one for each; ``None``: the bundle's own.
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
    source: Language
    target: Language
    prefix: str | Sequence[str]
    prefix_bias: float | None
    cancellation: Cancellation | None


class ScoreArguments(TypedDict, total=False):
    """Keyword arguments of scoring: ``batch_size`` texts at most go through together; the rest as in decoding."""

    source: Language
    target: Language
    batch_size: int


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


class HearingArguments(TypedDict, total=False):
    """Keyword arguments of writing one window of speech down.

    ``language``: the code of what is spoken, for all windows or one for each; ``None``: it is detected. ``task``: write
    what is said, or its translation into English. ``timestamps``: say when. ``previous``: a text that came before, for
    all windows or one for each, as which names and terms are likelier to be written; of a long one its end is read.
    ``prefix``: what a result begins with. The others are those of :class:`StreamArguments`; ``max_new_tokens`` is by
    default half of the context.
    """

    language: Language
    task: SpeechTask
    timestamps: bool
    previous: str | Sequence[str]
    prefix: str | Sequence[str]
    beam_size: int | None
    length_penalty: float | None
    length_norm: LengthNorm
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
    stop: Sequence[str]
    deadline: float | None
    cancellation: Cancellation | None


class TranscribeArguments(HearingArguments, total=False):
    """Keyword arguments of writing windows down: :class:`HearingArguments`, and how they go through.

    ``batch_size`` windows at most go through the engine together. ``progress(done, windows)`` is called after every
    batch.
    """

    batch_size: int
    progress: Done | None
