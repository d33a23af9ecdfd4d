"""Positions that attentions know of: rotary and relative ones, as frozen configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config_checks import MOST_ROWS, MOST_WIDTH, check_size, check_types, require

MOST_TURNS = 1e6
"""``beta_fast`` of yarn at most; ``beta_slow`` at least one by it."""
RopeScaling = Literal["none", "linear", "llama3", "yarn", "longrope"]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary positions (Su et al. 2021, equation 34): frequency ``i`` of a head is ``theta ** (-2 i / head_dim)``.

    ``scaling`` changes the frequencies for contexts longer than trained on. ``linear`` divides all of them by
    ``factor`` (Chen et al. 2023, equation 4). ``llama3`` divides those whose wave is longer than ``original_positions /
    low_freq_factor``, leaves those shorter than ``original_positions / high_freq_factor``, and goes smoothly from one
    to the other between (Grattafiori et al. 2024; reference: ``apply_scaling`` in ``models/llama3/model.py`` of
    github.com/meta-llama/llama-models). ``yarn`` divides those that turn less than ``beta_slow`` times in
    ``original_positions``, leaves those that turn more than ``beta_fast`` times, and goes from one to the other as the
    number of the frequency does, from whole number to whole number with ``truncate`` (Peng et al. 2023, section 3.2).
    ``longrope`` divides each by its own of ``short_factors``, ``head_dim / 2`` of them, which hold within
    ``original_positions`` (Ding et al. 2024, section 3.3); beyond, others hold, and nothing is read.

    ``attention_factor`` multiplies what was turned, queries and keys alike (there, section 3.4).

    ``rotary_dim``: how many numbers of a head turn (Black et al. 2022, section 2.1), ``None``: all of them. They are
    the first ``rotary_dim / 2`` of either half of the head; the frequencies are those of a head of that width.
    """

    theta: float = 10000.0
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    short_factors: tuple[float, ...] = ()
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require(self.scaling != "none" or self.factor == 1.0, f"factor ({self.factor}) belongs to a scaling")
        if self.scaling in ("llama3", "yarn", "longrope"):
            original = self.original_positions
            require(
                original is not None and original > 0,
                f"{self.scaling} scaling needs original_positions; it is {original}",
            )
            check_size(self, "original_positions", MOST_ROWS)
            for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
                least, most = getattr(self, low), getattr(self, high)
                require(least < most, f"{low} ({least}) must be below {high} ({most})")
        else:
            require(
                self.original_positions is None, "original_positions belong to llama3, yarn and longrope scaling only"
            )
        require(
            self.scaling in ("yarn", "longrope") or self.attention_factor == 1.0,
            f"attention_factor ({self.attention_factor}) belongs to yarn and longrope scaling only",
        )
        require(
            bool(self.short_factors) == (self.scaling == "longrope"),
            f"short_factors ({len(self.short_factors)}) belong to longrope scaling, and it to them",
        )
        if self.rotary_dim is not None:
            check_size(self, "rotary_dim", MOST_WIDTH)
            require(self.rotary_dim % 2 == 0, f"rotary_dim ({self.rotary_dim}) must be even: positions turn pairs")
        if self.scaling == "yarn":
            least, most = self.beta_slow, self.beta_fast
            require(
                least >= 1 / MOST_TURNS and most <= MOST_TURNS,
                f"beta_slow ({least}) and beta_fast ({most}) must be from {1 / MOST_TURNS:g} to {MOST_TURNS:g}",
            )
        require(self.scaling != "yarn" or self.theta > 1, f"theta ({self.theta}) must be above 1 for yarn scaling")


def check_longrope(rope: RopeConfig, turned: int, max_positions: int) -> None:
    """Refuse ``longrope`` positions that a head, ``turned`` numbers of which turn, or a context cannot have.

    Raises:
        ConfigError: it can not.
    """
    pairs, found = turned // 2, len(rope.short_factors)
    require(found == pairs, f"short_factors ({found}) must be half of head_dim ({turned}): one a pair")
    assert rope.original_positions is not None
    require(
        max_positions <= rope.original_positions,
        f"max_positions ({max_positions}) must be at most original_positions ({rope.original_positions}): "
        "beyond, longrope positions have other factors",
    )


@dataclass(frozen=True, kw_only=True)
class RelativeConfig:
    """Relative positions (Raffel et al. 2020, section 2.1): every head adds a number of its own to the score of a key.

    Which one depends on how far the key is from the query: the distances are divided among ``buckets``, which grow with
    the distance; keys ``max_distance`` and more away share the last. The layers of a stack share the numbers.
    """

    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("buckets", "max_distance"):
            check_size(self, name, MOST_ROWS)
        require(self.buckets >= 4, f"buckets ({self.buckets}) must be at least 4: two on each side of a query")
        require(
            self.max_distance > self.buckets // 2,
            f"max_distance ({self.max_distance}) must be above half of the buckets ({self.buckets}): each of these "
            "holds one distance",
        )
