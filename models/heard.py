"""What a decoder of speech is asked: features and the prompt that steers it, where others have the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Heard(NamedTuple):
    """One window: ``features (bands, frames)`` float32, and what the decoder reads before its first own token."""

    features: Tensor
    prompt: tuple[int, ...]


Source = Sequence[int] | Heard
"""What a decoder is asked: the tokens of a text, or what was heard."""
