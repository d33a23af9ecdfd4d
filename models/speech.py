"""Speech as a source: what a network hears, and the tokens that steer how it is written down (Radford et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError
from .config_checks import MOST_ROWS, MOST_WIDTH, check_size
from .languages import check_tokens

_TOKENS = ("no_timestamps_id", "transcribe_id", "translate_id", "previous_id", "no_speech_id")


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """An encoder that reads log-mel features of one window, and the control tokens of its decoder (section 2.3).

    ========================= ========================================================================================
    ``bands``                 features a frame; a frame is 10 ms
    ``frames``                frames of a window, padded with silence; the encoder makes a state of every two
    ``no_timestamps_id``      stands before a result without timestamps; the tokens after it, in order, are times: 0,
                              20 ms, 40 ms, ...
    ``languages``             the token of every language by its code; none: the network knows one, and has no prompt
                              of languages and tasks
    ``transcribe_id``         say what to do where there are languages: write what is said, or its translation into
    ``translate_id``          English
    ``previous_id``           stands before a text that precedes what is heard
    ``no_speech_id``          what the network says first where nothing is said
    ``begin_suppress``        tokens that no result begins with
    ``max_initial_timestamp`` a result begins with none of the times after this one, counted in 20 ms; ``None``: with
                              any
    ========================= ========================================================================================
    """

    bands: int
    frames: int
    no_timestamps_id: int
    languages: Mapping[str, int] = field(default_factory=dict)
    transcribe_id: int | None = None
    translate_id: int | None = None
    previous_id: int | None = None
    no_speech_id: int | None = None
    begin_suppress: tuple[int, ...] = ()
    max_initial_timestamp: int | None = None

    def __post_init__(self) -> None:
        for name in ("bands", "frames", *_TOKENS, "max_initial_timestamp"):
            value = getattr(self, name)
            optional = name not in ("bands", "frames", "no_timestamps_id")
            _require(type(value) is int or (optional and value is None), f"{name} ({value!r}) must be an integer")
        check_size(self, "bands", MOST_WIDTH)
        check_size(self, "frames", MOST_ROWS)
        _require(self.frames % 2 == 0, f"frames ({self.frames}) must be even: a state is made of two")
        _require(
            all(type(token) is int for token in self.begin_suppress),
            f"begin_suppress ({self.begin_suppress!r}) must be token ids",
        )
        if self.languages:
            check_tokens(self.languages)
        tasks = (self.transcribe_id, self.translate_id)
        _require(
            (None not in tasks) if self.languages else tasks == (None, None),
            f"transcribe_id and translate_id {tasks} belong to languages, and they to these",
        )
        _require(
            (self.max_initial_timestamp or 0) >= 0,
            f"max_initial_timestamp ({self.max_initial_timestamp}) must not be negative",
        )

    @property
    def positions(self) -> int:
        """States that the encoder makes of a window."""
        return self.frames // 2

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse tokens beyond a vocabulary, or one without a single time.

        Raises:
            ConfigError: there are some.
        """
        named = {name: getattr(self, name) for name in _TOKENS}
        named |= {f"the token of language {code!r}": token for code, token in self.languages.items()}
        named |= {f"begin_suppress {i}": token for i, token in enumerate(self.begin_suppress)}
        for name, token in named.items():
            _require(
                token is None or 0 <= token < vocab_size,
                f"{name} ({token}) must be a token id below vocab_size ({vocab_size})",
            )
        _require(
            self.no_timestamps_id + 1 < vocab_size,
            f"no_timestamps_id ({self.no_timestamps_id}) must have the tokens of times after it",
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"speech: {message}")
