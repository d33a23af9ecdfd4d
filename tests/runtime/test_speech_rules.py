"""Rules of speech against ``transformers``' logits processors, along random walks that obey them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (  # noqa: TID251 the oracle of these tests, and of nothing else
    SuppressTokensAtBeginLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from edgewise.runtime.speech_rules import BeginSuppress, Timestamps

END, NO_TIMESTAMPS, VOCABULARY = 40, 45, 80
FIRST = NO_TIMESTAMPS + 1
PROMPT = [41, 42, 43]


def library(most_initial: int | None) -> WhisperTimeStampLogitsProcessor:
    settings = SimpleNamespace(
        no_timestamps_token_id=NO_TIMESTAMPS,
        eos_token_id=END,
        bos_token_id=END,
        max_initial_timestamp_index=most_initial,
    )
    return WhisperTimeStampLogitsProcessor(settings, begin_index=len(PROMPT))


@pytest.mark.parametrize("most_initial", [None, 3, 200])
@pytest.mark.parametrize("seed", range(20))
def test_timestamps_are_those_of_the_library(seed: int, most_initial: int | None) -> None:
    """Logits lean towards times or words by turns, so that both sides of the comparison of probabilities occur."""
    generator = np.random.default_rng(seed)
    ours, theirs = Timestamps(FIRST, END, NO_TIMESTAMPS, most_initial), library(most_initial)
    new: list[int] = []
    while len(new) < 24 and END not in new:
        logits = generator.normal(scale=2.0, size=VOCABULARY).astype(np.float32)
        logits[FIRST:] += generator.choice([-4.0, -1.0, 2.0])
        expected = theirs(torch.tensor([[*PROMPT, *new]]), torch.from_numpy(logits.copy())[None])[0].numpy()
        found = logits.copy()
        ours.apply(found, [*PROMPT, *new], new)
        np.testing.assert_array_equal(found, expected)
        if not np.isfinite(found).any():
            break
        new.append(int(generator.choice(np.flatnonzero(np.isfinite(found)))))
    assert len(new) > 1


def test_both_sides_of_the_comparison_of_probabilities() -> None:
    rule, new = Timestamps(FIRST, END, NO_TIMESTAMPS), [FIRST, 7]
    wordy, timely = np.zeros(VOCABULARY, np.float32), np.zeros(VOCABULARY, np.float32)
    wordy[5] = 9.0
    rule.apply(wordy, new, new)
    rule.apply(timely, new, new)
    assert np.isfinite(wordy[:FIRST]).sum() == FIRST - 1
    assert not np.isfinite(timely[:FIRST]).any()
    assert np.isfinite(timely[FIRST + 1 :]).all()


@pytest.mark.parametrize("new", [[], [3], [3, 4]])
def test_no_result_begins_with_what_may_not_begin_it(new: list[int]) -> None:
    logits = np.arange(VOCABULARY, dtype=np.float32)
    expected = SuppressTokensAtBeginLogitsProcessor([3, END], begin_index=len(PROMPT))(
        torch.tensor([[*PROMPT, *new]]), torch.from_numpy(logits.copy())[None]
    )[0]
    BeginSuppress((3, END)).apply(logits, [*PROMPT, *new], new)
    np.testing.assert_array_equal(logits, expected.numpy())
