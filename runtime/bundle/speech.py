"""Speech in a manifest: what an encoder hears, and the tokens that steer how it is written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from .schema import Between, Length, Text, refuse

FRAME_SECONDS = 0.01
TIMES_A_SECOND = 50
"""Tokens of times are 20 ms apart, as the states of the encoder are."""

SpeechTask = Literal["transcribe", "translate"]

_Code = Annotated[str, Text(64, r"[A-Za-z][A-Za-z0-9_.-]*")]
_Token = Annotated[int, Between(0, 2**24)]


@dataclass(frozen=True, kw_only=True)
class SpeechSpec:
    """An encoder that hears, and control tokens: ``models.speech.SpeechConfig``, which says what its fields mean."""

    bands: Annotated[int, Between(1, 1024)]
    frames: Annotated[int, Between(2, 2**16)]
    no_timestamps_id: _Token
    languages: Annotated[dict[_Code, _Token], Length(0, 4096)] = field(default_factory=dict)
    transcribe_id: _Token | None = None
    translate_id: _Token | None = None
    previous_id: _Token | None = None
    no_speech_id: _Token | None = None
    begin_suppress: Annotated[tuple[_Token, ...], Length(0, 10_000)] = ()
    max_initial_timestamp: Annotated[int, Between(0, 2**24)] | None = None

    def __post_init__(self) -> None:
        refuse(self._contradictions())

    def _contradictions(self) -> Iterator[str]:
        if self.frames % 2:
            yield f"frames ({self.frames}) must be even: a state is made of two"
        tasks = (self.transcribe_id, self.translate_id)
        if (None in tasks) if self.languages else tasks != (None, None):
            yield f"transcribe_id and translate_id {tasks} belong to languages, and they to these"

    @property
    def positions(self) -> int:
        """States that the encoder makes of a window."""
        return self.frames // 2

    @property
    def first_time(self) -> int:
        """The token of time 0; those after it are 20 ms apart."""
        return self.no_timestamps_id + 1

    def prompt(
        self, start_id: int, language: str | None, task: SpeechTask, timestamps: bool, previous: tuple[int, ...] = ()
    ) -> tuple[int, ...]:
        """What the decoder reads before the first token of a result (Radford et al. 2022, figure 1).

        ``language`` is one of ``languages`` where there are any. ``previous``: tokens of the text that came before.
        """
        before: tuple[int, ...] = ()
        if previous:
            assert self.previous_id is not None
            before = (self.previous_id, *previous)
        steered: tuple[int, ...] = ()
        if language is not None:
            asked = self.transcribe_id if task == "transcribe" else self.translate_id
            assert asked is not None
            steered = (self.languages[language], asked)
        return (*before, start_id, *steered, *(() if timestamps else (self.no_timestamps_id,)))

    def misfits(self, vocab_size: int) -> Iterator[str]:
        """Tokens beyond a vocabulary."""
        named = {"no_timestamps_id": self.first_time} | {f"language {c!r}": t for c, t in self.languages.items()}
        for name in ("transcribe_id", "translate_id", "previous_id", "no_speech_id"):
            named[name] = getattr(self, name) or 0
        named["begin_suppress"] = max(self.begin_suppress, default=0)
        for name, token in named.items():
            if token >= vocab_size:
                yield f"speech: {name} ({token}) must be below vocab_size ({vocab_size})"
