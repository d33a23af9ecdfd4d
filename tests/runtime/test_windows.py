"""Texts longer than a model reads: where the windows are, and that their mean is what a session gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from edgewise.errors import ContextLengthError, InputError
from edgewise.runtime.inputs import longest_first
from edgewise.runtime.session import Session
from edgewise.runtime.windows import windows

from .tiny_session import session_for

WORDS = "A man is riding a bicycle. Two dogs run on the grass. "


def numbers() -> tokenizers.Tokenizer:
    """A token a number."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({str(i): i for i in range(60)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.mark.parametrize("room", [1, 2, 5, 16])
@pytest.mark.parametrize("length", [1, 2, 5, 6, 15, 16, 17, 40])
def test_windows_are_those_of_the_tokenizers_library(length: int, room: int) -> None:
    for overlap in range(room):
        tokenizer = numbers()
        tokenizer.enable_truncation(room, stride=overlap)
        whole = tokenizer.encode(" ".join(map(str, range(length))))
        expected = [whole.ids, *(part.ids for part in whole.overflowing)]
        assert [list(window) for window in windows(length, room, overlap)] == expected


def test_an_overlap_is_half_a_window_unless_someone_says() -> None:
    assert [*windows(10, 4, None)] == [range(4), range(2, 6), range(4, 8), range(6, 10)]
    assert [*windows(1000, 510, None)][1] == range(382, 892)
    assert [*windows(0, 4, None)] == [range(0)]


@pytest.mark.parametrize("overlap", [4, -1, True, False, 0.0, 1.5, "x"])
def test_an_overlap_that_is_none(overlap: Any) -> None:
    with pytest.raises(InputError, match=r"overlap \(.*\) must be an integer from 0 to 3: a window has 4 tokens"):
        [*windows(10, 4, overlap)]


@pytest.mark.parametrize("room", [2, 7, 8, 30])
def test_pairs_are_cut_as_the_tokenizers_library_does(room: int) -> None:
    for first in (1, 2, 4, 9, 20):
        for second in (1, 2, 4, 9, 20):
            tokenizer = numbers()
            tokenizer.enable_truncation(room, strategy="longest_first")
            texts = (" ".join(["1"] * first), " ".join(["2"] * second))
            ids = tokenizer.encode(*texts).ids
            assert longest_first(first, second, room) == (ids.count(1), ids.count(2))


def cut(session: Session, text: str) -> list[list[int]]:
    """Windows by hand: all of the context but the end token, half of a window apart."""
    ids, room = session.tokenizer.encode(text), session.manifest.max_context - 1
    step = room - min(128, room // 2)
    starts = [s for s in range(0, len(ids), step) if s == 0 or s + room - step < len(ids)]
    return [ids[s : s + room] for s in starts]


def test_a_long_text_is_classified_by_the_mean_of_its_windows() -> None:
    session = session_for("classify")
    text = WORDS * 5
    with pytest.raises(InputError, match="more than the"):
        session.classify(text)
    found = session.classify(text, overflow="windows")
    chances, weights = [], []
    for window in cut(session, text):
        ids = np.array([[*window, session.manifest.model.end_id]])
        _, logits = session.engine.encode(ids, np.ones_like(ids, dtype=bool), None)
        odds = np.exp(logits[0].astype(np.float64))
        chances.append(odds / odds.sum())
        weights.append(len(window))
    assert len(weights) > 2
    mean = sum(w * c for w, c in zip(weights, chances, strict=True)) / sum(weights)
    assert list(found.probabilities.values()) == pytest.approx(mean.tolist(), abs=1e-5)
    assert not found.truncated
    short = WORDS.strip()
    one, plain = session.classify(short, overflow="windows"), session.classify(short)
    assert one.probabilities == pytest.approx(plain.probabilities, abs=1e-6)


def test_other_methods_have_no_windows() -> None:
    session = session_for("classify")
    with pytest.raises(InputError, match=r"overflow \('windows'\) must be 'error' or 'truncate'"):
        session.encode("a man", overflow="windows")  # type: ignore[call-overload]
    with pytest.raises(InputError, match="this model reads one text and no pairs"):
        session.classify("a man", pairs="a dog")
    with pytest.raises(InputError, match="overflow is 'windows', expected 'error' or 'truncate' for pairs"):
        session.classify("a man", pairs="a dog", overflow="windows")
    with pytest.raises(InputError, match=r"overflow \('cut'\) must be 'error' or 'truncate'"):
        session.classify("a man", pairs="a dog", overflow="cut")  # type: ignore[call-overload]


def test_a_text_that_is_too_long_names_windows_where_there_are_some() -> None:
    session = session_for("classify")
    with pytest.raises(ContextLengthError, match=r"pass overflow='truncate', or 'windows' to read all of it$"):
        session.classify("A man. " * 90)
    with pytest.raises(ContextLengthError, match=r"shorten or split it, or pass overflow='truncate'$"):
        session.encode("A man. " * 90)
