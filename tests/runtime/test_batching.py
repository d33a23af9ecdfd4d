"""Batches: similar lengths together, never more than memory holds, results in input order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from edgewise.errors import InputError
from edgewise.runtime import batching
from edgewise.runtime.batching import decoder_bytes, encoder_bytes, in_order, memory_alone, memory_budget, plan_batches
from edgewise.runtime.bundle.model_spec import ModelSpec, StackSpec


def test_every_item_is_in_one_batch_and_the_longest_come_first() -> None:
    draw = random.Random(0)
    lengths = [draw.randrange(1, 50) for _ in range(100)]
    batches = plan_batches(lengths, lambda _: 1, 8, 1000)
    assert sorted(i for batch in batches for i in batch) == list(range(100))
    assert all(len(batch) <= 8 for batch in batches)
    ordered = [lengths[i] for batch in batches for i in batch]
    assert ordered == sorted(lengths, reverse=True)


def test_a_batch_stays_within_its_bytes() -> None:
    lengths = [10, 1, 5, 5, 10, 1, 1]
    batches = plan_batches(lengths, lambda length: 100 * length, 32, 2000)
    assert batches == [[0, 4], [2, 3, 1, 5], [6]]
    for batch in batches:
        assert len(batch) * 100 * max(lengths[i] for i in batch) <= 2000


def test_equal_lengths_only() -> None:
    assert plan_batches([3, 2, 3, 2, 3], lambda _: 1, 2, 99, equal=True) == [[0, 2], [4], [1, 3]]


def test_nothing_makes_no_batches() -> None:
    assert plan_batches([], lambda _: 1, 2, 99) == []
    assert in_order([], []) == []


def test_an_item_too_large_for_memory_is_refused() -> None:
    with pytest.raises(InputError, match="text 1 would need about 9 MiB of memory and 4 MiB may be used: shorten it"):
        plan_batches([1, 9], lambda length: length << 20, 8, 4 << 20)


def test_what_cannot_be_made_smaller_may_take_more_by_itself() -> None:
    assert plan_batches([1, 9, 9], lambda length: length << 20, 8, 4 << 20, alone=9 << 20) == [[1], [2], [0]]
    with pytest.raises(InputError, match="text 1 would need about 9 MiB of memory and 8 MiB may be used: lower beam_s"):
        plan_batches([1, 9], lambda length: length << 20, 8, 4 << 20, alone=8 << 20)


def test_half_of_what_is_free_is_for_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "available_memory", lambda: 6 << 30)
    assert memory_alone() == 3 << 30
    monkeypatch.setattr(batching, "available_memory", lambda: None)
    assert memory_alone() == 4 << 30
    monkeypatch.setattr(batching, "available_memory", lambda: 0)
    assert memory_alone() == 0


def test_results_come_back_in_input_order() -> None:
    assert in_order([[2, 0], [1]], [["c", "a"], ["b"]]) == ["a", "b", "c"]


STACK = StackSpec(n_layers=2, d_model=8, n_heads=2, d_ff=16, norm_place="post", activation="relu", norm_epsilon=1e-5)


def model(encoder: StackSpec | None, decoder: StackSpec | None) -> ModelSpec:
    return ModelSpec(
        vocab_size=100, max_positions=64, pad_id=0, start_id=1, end_id=2, encoder=encoder, decoder=decoder,
        head="vocabulary", mask_id=None, class_names=(),
    )  # fmt: skip


def test_the_estimates_by_hand() -> None:
    both = model(STACK, STACK)
    layer = 5 * (8 * 8 + 2 * 16) + 2 * 2 * 5 * 5
    assert encoder_bytes(both, 5) == 4 * (2 * 2 * 5 * 8 + layer)  # cross K and V of 2 layers
    assert encoder_bytes(model(STACK, None), 5) == 4 * (100 + layer)  # logits of one position
    assert encoder_bytes(model(None, STACK), 5) == 0
    step = 1 * (8 * 8 + 2 * 16) + 2 * 2 * 1 * 7
    assert decoder_bytes(both, 1, 7, 3) == 4 * 3 * (2 * 2 * 2 * 8 * 7 + 3 * 100 + step)
    assert decoder_bytes(model(STACK, None), 1, 7, 3) == 0


def test_the_estimates_count_the_width_of_the_heads() -> None:
    """Two heads of width 6 where the network is 8 wide: queries, keys, values and what is attended are 12 wide."""
    wide = replace(STACK, head_dim=6)
    layer = 5 * (4 * 8 + 4 * 12 + 2 * 16) + 2 * 2 * 5 * 5
    assert encoder_bytes(model(wide, wide), 5) == 4 * (2 * 2 * 5 * 12 + layer)
    step = 1 * (4 * 8 + 4 * 12 + 2 * 16) + 2 * 2 * 1 * 7
    assert decoder_bytes(model(wide, wide), 1, 7, 3) == 4 * 3 * (2 * 2 * 2 * 12 * 7 + 3 * 100 + step)


def test_relative_positions_hold_a_bias_for_every_score() -> None:
    relative = replace(model(STACK, STACK), positions="relative")
    layer = 5 * (8 * 8 + 2 * 16) + 4 * 2 * 5 * 5
    assert encoder_bytes(relative, 5) == 4 * (2 * 2 * 5 * 8 + layer)


@pytest.mark.parametrize(("free", "budget"), [(None, 1 << 30), (1 << 40, 1 << 30), (1 << 30, 1 << 28), (0, 0)], ids=str)
def test_the_budget_is_a_quarter_of_what_is_free(
    free: int | None, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "available_memory", lambda: free)
    batching._budget_at.cache_clear()
    assert memory_budget() == budget
    batching._budget_at.cache_clear()
