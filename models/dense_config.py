"""A linear layer that makes a text's vector of its pooled states, as a frozen configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config_checks import MOST_WIDTH, check_size, check_types

DenseActivation = Literal["identity", "tanh"]


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """``activation(W x + b)`` of the pooled state ``x (D,)``, before any normalization: ``width`` numbers.

    Reference: ``sentence_transformers/base/modules/dense.py`` of sentence-transformers 6.2.0.
    """

    width: int
    bias: bool = True
    activation: DenseActivation = "identity"

    def __post_init__(self) -> None:
        check_types(self)
        check_size(self, "width", MOST_WIDTH)
