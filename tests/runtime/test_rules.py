"""Rules by hand; those that Hugging Face has are compared with its numbers in ``test_huggingface.py``."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.rules import (
    CountPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatNgram,
    RepetitionPenalty,
    Rule,
    Suppress,
    rules_for,
)

END = 2


def after(rule: Rule, read: list[int], new: list[int] | None = None) -> list[float]:
    """Logits 3, -1, 0, 2, -2 after the rule."""
    logits = np.array([3, -1, 0, 2, -2], np.float32)
    rule.apply(logits, read, read if new is None else new)
    return logits.tolist()


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("rule", "read", "new", "expected"),
    [
        (LogitBias({1: 0.5, 4: -3.0}), [], [], [3, -0.5, 0, 2, -5]),
        (RepetitionPenalty(2.0), [0, 1, 0, 2], [], [1.5, -2, 0, 2, -2]),
        (CountPenalty(0.5, 0.0), [3, 0, 0, 4], [0, 0, 4], [2.5, -1, 0, 2, -2.5]),
        (CountPenalty(0.0, 0.25), [3, 0, 0, 4], [0, 0, 4], [2.5, -1, 0, 2, -2.25]),
        (CountPenalty(1.0, 0.25), [0], [0], [1.75, -1, 0, 2, -2]),
        (CountPenalty(1.0, 1.0), [3, 0], [], [3, -1, 0, 2, -2]),
        (NoRepeatNgram(2), [0, 3, 1, 0], [], [3, -1, 0, -INFINITE, -2]),
        (NoRepeatNgram(2), [0, 0], [], [-INFINITE, -1, 0, 2, -2]),
        (NoRepeatNgram(3), [0, 3], [], [3, -1, 0, 2, -2]),
        (NoRepeatNgram(1), [0, 3], [], [-INFINITE, -1, 0, -INFINITE, -2]),
        (Suppress(((1,), (4, 0))), [4], [], [-INFINITE, -INFINITE, 0, 2, -2]),
        (Suppress(((4, 0), (1, 4, 3))), [1], [], [3, -1, 0, 2, -2]),
        (MinNewTokens(2, (END,)), [1, 1, 1], [1], [3, -1, -INFINITE, 2, -2]),
        (MinNewTokens(2, (END, 4)), [1, 1, 1], [1], [3, -1, -INFINITE, 2, -INFINITE]),
        (MinNewTokens(2, (END,)), [1, 1, 1], [1, 1], [3, -1, 0, 2, -2]),
    ],
    ids=str,
)
def test_rules_by_hand(rule: Rule, read: list[int], new: list[int], expected: list[float]) -> None:
    assert after(rule, read, new) == expected


def test_only_what_is_asked_for_applies_and_in_order() -> None:
    assert rules_for(DecodingOptions(), END) == ()
    options = DecodingOptions(
        min_new_tokens=1,
        suppress=[[3]],
        no_repeat_ngram=2,
        presence_penalty=0.5,
        repetition_penalty=2.0,
        logit_bias={1: 2.0},
        end_ids=[4],
    )
    assert rules_for(options, END) == (
        LogitBias({1: 2.0}),
        RepetitionPenalty(2.0),
        CountPenalty(0.5, 0.0),
        NoRepeatNgram(2),
        Suppress(((3,),)),
        MinNewTokens(1, (END, 4)),
    )
    logits = np.array([3, -1, 0, 2, -2], np.float32)
    for rule in rules_for(options, END):
        rule.apply(logits, [1], [])
    assert logits.tolist() == [3, 0.5, -INFINITE, -INFINITE, -INFINITE], (
        "the bias makes 1 of -1, which the penalty then halves"
    )
