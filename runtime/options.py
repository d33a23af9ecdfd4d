"""How to decode: one frozen object, passed whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError

Overflow = Literal["error", "truncate"]


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """Options of greedy (``beam_size`` 1) and beam search.

    ``length_penalty``: hypotheses are ranked by ``score / ((5 + length) / 6) ** length_penalty`` (Wu et al. 2016,
    equation 14); 0 ranks by the plain sum of log-probabilities. ``max_new_tokens``: tokens per sentence, the end token
    included; ``None`` is source tokens + 50 (Vaswani et al. 2017, section 6.1), within the model's context.
    ``overflow``: what to do with a text longer than the context.

    Raises:
        InputError: a value is out of its range.
    """

    beam_size: int = 1
    length_penalty: float = 0.6
    n_best: int = 1
    max_new_tokens: int | None = None
    overflow: Overflow = "error"

    def __post_init__(self) -> None:
        _require(is_count(self.beam_size), f"beam_size ({self.beam_size!r}) must be an integer of at least 1")
        _require(is_count(self.n_best), f"n_best ({self.n_best!r}) must be an integer of at least 1")
        _require(
            self.n_best <= self.beam_size,
            f"n_best ({self.n_best}) cannot exceed beam_size ({self.beam_size}): widen the beam",
        )
        _require(
            _is_number(self.length_penalty) and 0 <= self.length_penalty < math.inf,
            f"length_penalty ({self.length_penalty!r}) must be a number of at least 0",
        )
        _require(
            self.max_new_tokens is None or is_count(self.max_new_tokens),
            f"max_new_tokens ({self.max_new_tokens!r}) must be an integer of at least 1, or None for the default",
        )
        _require(self.overflow in ("error", "truncate"), f"overflow ({self.overflow!r}) must be 'error' or 'truncate'")


def is_count(value: object) -> bool:
    """Whether ``value`` is an integer of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)
