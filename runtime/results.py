"""What a session returns: frozen dataclasses, with nothing of the engine in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["end", "length", "stop", "cancelled", "deadline"]
"""Why a sequence has no further token: its end token, the limit, a stop string, or whoever asked."""


@dataclass(frozen=True, kw_only=True)
class TokenHypothesis:
    """One decoded sequence, before it is text.

    ``tokens`` end with the end token where ``finish_reason`` is ``end``. ``token_log_probs`` (nats) belong to them one
    to one, and ``score`` is their sum. ``normalized_score`` is ``score`` after the length penalty.
    """

    tokens: tuple[int, ...]
    token_log_probs: tuple[float, ...]
    score: float
    normalized_score: float
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class WordPair:
    """A word of a result and the word of its source that it looks at most.

    ``source`` and ``target`` are where the words begin and end, in characters of the two texts; ``weight``, from 0 to
    1, is how much of the attention of the one goes to the other.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    weight: float


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What a result was made from: see :mod:`edgewise.runtime.alignments`.

    ``weights (target tokens, source tokens)`` float32, special tokens included: how much each token of a result, when
    it was predicted, looked at each of ``source_tokens``; rows sum to one. ``words``: a pair for every word and every
    mark of punctuation of the result, in its order.
    """

    weights: NDArray[np.float32] = field(repr=False, compare=False)
    words: tuple[WordPair, ...]


@dataclass(frozen=True, kw_only=True)
class Hypothesis(TokenHypothesis):
    """One decoded sequence and its text, which ends before the stop string where ``finish_reason`` is ``stop``.

    ``alignment`` is there where ``alignments`` were asked for.
    """

    text: str
    alignment: Alignment | None = None


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """What speculating brought to one text. Without it, there would have been ``passes + accepted`` passes."""

    passes: int
    """Calls of the decoder, that of the prompt included."""
    proposed: int
    """Tokens that passes have read because they were seen before."""
    accepted: int
    """Those of them that were chosen, and needed no pass of their own."""


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds. The sentences of one batch share theirs: ``batch`` says how many they are.

    A text that joins a batch under way has its own, from the moment that it has room, and ``batch`` is the most that it
    met there.
    """

    first_token: float
    """From the start of the batch to its first token: encoding the source, and prefill."""
    total: float
    """From the start of the batch to its last token."""
    batch: int
    speculation: Speculation | None = None
    """Counts, where ``speculate`` asked for it."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The answer to one text: hypotheses, best first; samples and alternatives in their order.

    ``source_tokens`` are the ids the model read; ``truncated`` says that they are not the whole text.
    """

    hypotheses: tuple[Hypothesis, ...]
    source_tokens: tuple[int, ...]
    truncated: bool
    timings: Timings

    @property
    def text(self) -> str:
        """Text of the first hypothesis."""
        return self.hypotheses[0].text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of the first hypothesis."""
        return self.hypotheses[0].tokens

    @property
    def score(self) -> float:
        """Sum of the token log-probabilities (nats) of the first hypothesis."""
        return self.hypotheses[0].score


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What was said from ``start`` to ``end``, in seconds from the window's beginning.

    ``end`` is ``None`` where the result ended before it gave a time. ``text`` begins with the space that parts it from
    what came before, where the language writes one: the texts of all segments join to the whole.
    """

    start: float
    end: float | None
    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Transcription:
    """The answer to one window of speech: hypotheses, best first; samples and alternatives in their order.

    ``language`` is what was spoken, by the code that the bundle knows; ``language_probability`` is there where it was
    detected, among all languages. Both are ``None`` of a model of one language. ``no_speech_probability``: that nothing
    was said, where the model has a token for it. ``segments`` of the first hypothesis, where timestamps were asked for.
    """

    hypotheses: tuple[Hypothesis, ...]
    language: str | None
    language_probability: float | None
    no_speech_probability: float | None
    segments: tuple[Segment, ...]
    timings: Timings

    @property
    def text(self) -> str:
        """Text of the first hypothesis, without the white space around it."""
        return self.hypotheses[0].text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of the first hypothesis, times and end token among them."""
        return self.hypotheses[0].tokens

    @property
    def score(self) -> float:
        """Sum of the token log-probabilities (nats) of the first hypothesis."""
        return self.hypotheses[0].score

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first hypothesis has no further token."""
        return self.hypotheses[0].finish_reason


@dataclass(frozen=True, kw_only=True)
class TranslatedSentence:
    """A sentence of a text and its translation; places are begin and end in characters of the two texts."""

    source: tuple[int, int]
    target: tuple[int, int]
    result: Generation


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that was translated sentence by sentence: ``text`` is the whole translation."""

    text: str
    sentences: tuple[TranslatedSentence, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """How probable a model finds a given text: ``score`` is the sum of ``token_log_probs`` (nats)."""

    tokens: tuple[int, ...]
    token_log_probs: tuple[float, ...]
    score: float


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Encoder states of one text: ``hidden (S, D)`` float32, a row per token of ``tokens``."""

    tokens: tuple[int, ...]
    truncated: bool
    hidden: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """One text as a ``vector (D,)`` float32, pooled and normalized as the bundle's model says.

    ``tokens`` are the ids the model read; ``truncated`` says that they are not the whole text.
    """

    tokens: tuple[int, ...]
    truncated: bool
    vector: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The class of one text: the most probable ``label``, its ``probability``, and those of all classes.

    They add up to 1 where one class is right, and are each for itself where several may be.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What a model gives a text or a pair: ``values`` by name, and the first of them as ``value``.

    Probabilities where the model's scores are, other numbers where it was made to give such.
    """

    value: float
    values: dict[str, float]
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One text among those that were ranked, ``index`` its place there; a higher ``score`` fits the query better."""

    index: int
    text: str
    score: float
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Characters ``start`` to ``end`` of a text that belong to one class; ``score`` is the mean of its words'."""

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Characters ``start`` to ``end`` of a text; ``score``: probability of the one end times that of the other."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Fill:
    """One proposal for a masked word: the ``text`` with it in place, and what was put there."""

    text: str
    token: int
    piece: str
    probability: float
