"""Which texts go through the engine together: of similar length, and no more than memory holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

from ..errors import InputError
from .bundle.model_spec import ModelSpec, StackSpec
from .cpu import available_memory

MAX_BUDGET_BYTES = 1 << 30
_FLOAT = 4
_R = TypeVar("_R")


def memory_budget() -> int:
    """Bytes one batch may take: a quarter of what was free within the last second, and 1 GiB at most."""
    return _budget_at(int(time.monotonic()))


def memory_alone() -> int:
    """Bytes that one item may take which cannot be made smaller, as a window of speech: half of what is free."""
    free = available_memory()
    return 4 * MAX_BUDGET_BYTES if free is None else free // 2


@lru_cache(maxsize=1)
def _budget_at(second: int) -> int:
    """Asking the system takes as long as a decoding step, so it is asked once a second."""
    free = available_memory()
    return MAX_BUDGET_BYTES if free is None else min(MAX_BUDGET_BYTES, free // 4)


def encoder_bytes(model: ModelSpec, length: int) -> int:
    """Estimate of what encoding one text of ``length`` tokens takes, logits and cross-attention K/V included."""
    if model.encoder is None:
        return 0
    keep = 2 * model.decoder.n_layers * length * _attention_width(model.decoder) if model.decoder else model.vocab_size
    return _FLOAT * (keep + _layer_floats(model, model.encoder, length, length))


def decoder_bytes(model: ModelSpec, fed: int, capacity: int, beams: int, logit_positions: int = 1) -> int:
    """Estimate of what decoding one sentence takes: caches, the activations of the longest call, and logits.

    ``fed`` tokens in that call, ``capacity`` cached positions, ``logit_positions`` of every row. Caches count twice,
    for engines that reorder beams by copying.
    """
    stack = model.decoder
    if stack is None:
        return 0
    cache = 2 * 2 * stack.n_layers * _attention_width(stack) * capacity
    logits = 3 * logit_positions * model.vocab_size  # scores, their softmax, and a copy
    return _FLOAT * beams * (cache + logits + _layer_floats(model, stack, fed, capacity))


def _layer_floats(model: ModelSpec, stack: StackSpec, queries: int, keys: int) -> int:
    """Floats alive at once inside a layer: states, the inner feed-forward, attention weights and their softmax.

    Relative positions add a bias for every score, and that bias under the mask.
    """
    states = 4 * stack.d_model + 4 * _attention_width(stack)
    inner = stack.d_ff or 4 * stack.d_model  # as in the paper where nothing is said
    scores = 4 if model.positions == "relative" else 2
    return queries * (states + 2 * inner) + scores * stack.n_heads * queries * keys


def _attention_width(stack: StackSpec) -> int:
    """Width of all heads together."""
    return stack.n_heads * stack.head_width


def plan_batches(
    lengths: Sequence[int],
    bytes_each: Callable[[int], int],
    most: int,
    budget: int,
    *,
    equal: bool = False,
    most_tokens: int | None = None,
    names: Sequence[str] | None = None,
    alone: int = 0,
) -> list[list[int]]:
    """Split items into batches of at most ``most``, longest first. Returns lists of indices.

    ``bytes_each(length)``: what one row padded to ``length`` takes; a batch stays within ``budget`` bytes. ``equal``
    puts only items of the same length together. A batch of several items, each padded to the longest, has
    ``most_tokens`` tokens at most. ``alone``: bytes that one item may take by itself, where they are more than
    ``budget``. ``names`` of the items begin messages, by default ``text`` and their index.

    Raises:
        InputError: one item alone exceeds the budget.
    """
    batches: list[list[int]] = []
    room = longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if room == 0 or (equal and lengths[i] != longest):
            longest = lengths[i]
            name = names[i] if names else f"text {i}"
            room = min(most, _rows_that_fit(name, bytes_each(longest), budget, alone))
            if most_tokens is not None:
                room = min(room, max(1, most_tokens // longest))
            batches.append([])
        batches[-1].append(i)
        room -= 1
    return batches


def _rows_that_fit(name: str, needed: int, budget: int, alone: int = 0) -> int:
    if needed > (most := max(budget, alone)):
        raise InputError(
            f"{name} would need about {needed >> 20} MiB of memory and {most >> 20} MiB may be used: "
            f"{'' if alone else 'shorten it, or '}lower beam_size, samples, alternatives or max_new_tokens"
        )
    return max(1, budget // max(1, needed))


def in_order(batches: Iterable[Sequence[int]], results: Iterable[Sequence[_R]]) -> list[_R]:
    """Put the results of every batch back into the order of the items."""
    placed = {i: r for batch, found in zip(batches, results, strict=True) for i, r in zip(batch, found, strict=True)}
    return [placed[i] for i in range(len(placed))]
