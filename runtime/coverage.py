"""The coverage penalty: finished hypotheses that leave parts of the source unread count less (Wu et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from .engine import Engine, Floats, Memory

AttentionOf: TypeAlias = Callable[[Sequence[int]], Floats]
"""Weights ``(T, S)`` with which each of ``T`` new tokens was predicted from its source; rows sum to one."""

LEAST = 1e-10
"""What a source token that nothing looks at counts for: the logarithm of 0 would leave no hypothesis."""


def coverage(weights: Floats) -> float:
    """``sum_i log(min(sum_j p_ij, 1))`` of ``weights (T, S)``: Wu et al. 2016, equation 14, without its ``beta``.

    ``p_ij`` is how much target token ``j`` looked at source token ``i``, the end token of both included. 0 where every
    source token got as much attention as one target token has, and less where some got less.
    """
    attention = weights.sum(axis=0, dtype=np.float64)  # (S,)
    return float(np.log(np.clip(attention, LEAST, 1.0)).sum())


def attention_from(
    engine: Engine, prompt: Sequence[int], memory: Memory, place: int, source_tokens: int
) -> AttentionOf:
    """How new tokens look at sentence ``place`` of ``memory``, its padding left out: one pass from the ``prompt``."""

    def attend(tokens: Sequence[int]) -> Floats:
        read = np.array([[*prompt, *tokens[:-1]]], np.int64)  # a token is predicted from those before it
        return engine.cross_attention(memory, np.array([place]), read)[0, len(prompt) - 1 :, :source_tokens]

    return attend
