"""Texts that come one by one: iterators, more texts than memory holds, and what is wrong with one of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from edgewise.errors import InputError
from edgewise.runtime import decoding
from edgewise.runtime.options import Sampling

from .test_decoding_options import call
from .test_session import engine_of, texts
from .tiny_session import session_for

Task = Any


@pytest.mark.parametrize("task", ["translate", "generate"])
def test_an_iterator_gives_what_a_list_gives_in_order(task: Task) -> None:
    session, inputs = session_for(task, 1), texts(40)
    listed = call(session, inputs, max_new_tokens=4)
    iterate = session.translate_iter if task == "translate" else session.generate_iter
    found = list(iterate(iter(inputs), max_new_tokens=4, batch_size=1))
    assert [r.source_tokens for r in found] == [r.source_tokens for r in listed]
    assert [r.tokens for r in found] == [r.tokens for r in listed]
    assert [r.score for r in found] == pytest.approx([r.score for r in listed], abs=1e-4)
    assert list(iterate([])) == []


@pytest.mark.parametrize(
    "options", [{}, {"beam_size": 3, "n_best": 2}, {"sampling": Sampling(seed=5, samples=2)}], ids=str
)
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_a_continuous_iterator_gives_what_a_list_gives_in_order(task: Task, options: dict[str, Any]) -> None:
    session, inputs = session_for(task, 1), texts(12)
    listed = call(session, inputs, max_new_tokens=9, **options)
    iterate = session.translate_iter if task == "translate" else session.generate_iter
    seen: list[Any] = []
    found = list(
        iterate(
            iter(inputs),
            max_new_tokens=9,
            batch_size=4,
            continuous=True,
            progress=lambda *done: seen.append(done),
            **options,
        )
    )
    assert [r.source_tokens for r in found] == [r.source_tokens for r in listed]
    assert [[h.tokens for h in r.hypotheses] for r in found] == [[h.tokens for h in r.hypotheses] for r in listed]
    assert [r.score for r in found] == pytest.approx([r.score for r in listed], abs=1e-4)
    assert [done for done, _ in seen] == list(range(1, 13))
    assert seen[-1] == (12, 12)
    assert max(r.timings.batch for r in found) == 4
    assert list(iterate([], continuous=True)) == []


def test_a_continuous_iterator_says_what_is_wrong_with_a_text_and_with_its_options() -> None:
    session = session_for("translate")
    with pytest.raises(InputError, match="text 3 is empty"):
        list(session.translate_iter(["A man"] * 3 + [" "], max_new_tokens=1, batch_size=1, continuous=True))
    with pytest.raises(InputError, match=r"text 0: the options leave no token"):
        list(session.translate_iter(["A man"], suppress=[[i] for i in range(330)], continuous=True))
    with pytest.raises(InputError, match=r"continuous \('yes'\) must be True or False"):
        session.translate_iter([], continuous="yes")  # type: ignore[arg-type]
    seen: list[Any] = []
    with pytest.raises(InputError, match=r"text 0: the options leave no token"):
        list(
            session.translate_iter(
                ["A man"],
                suppress=[[i] for i in range(330)],
                continuous=True,
                progress=lambda *done: seen.append(done),
            )
        )
    assert seen == []
    found = list(session.translate_iter(["A man"] * 3, deadline=0, continuous=True))
    assert [r.hypotheses[0].finish_reason for r in found] == ["deadline"] * 3


@pytest.mark.parametrize("continuous", [False, True])
def test_what_came_before_a_bad_text_is_given_out(continuous: bool) -> None:
    session, inputs = session_for("translate", 1), texts(20)
    listed = session.translate(inputs, max_new_tokens=4)

    def breaking() -> Iterator[str]:
        yield from inputs
        raise OSError("the disk is gone")

    sources: list[tuple[Any, type[Exception], str]] = [
        ([*inputs, " ", *inputs], InputError, "text 20 is empty"),
        ([*inputs, 5], InputError, "text 20"),
        (breaking(), OSError, "the disk is gone"),
    ]
    for source, error, message in sources:
        seen: list[Any] = []
        results = session.translate_iter(
            source,
            max_new_tokens=4,
            batch_size=1,
            continuous=continuous,
            progress=lambda *done, seen=seen: seen.append(done),
        )
        found = list(itertools.islice(results, 20))
        assert [g.tokens for g in found] == [g.tokens for g in listed]
        assert seen[-1] == (20, 20)
        with pytest.raises(error, match=message):
            next(results)


def test_an_iterator_counts_texts_across_what_it_reads_at_once() -> None:
    seen: list[Any] = []
    results = session_for("translate").translate_iter(
        ["A man"] * 36, max_new_tokens=1, batch_size=2, progress=lambda *done: seen.append(done)
    )
    assert len(list(results)) == 36
    assert seen == [(n, 32) for n in range(2, 33, 2)] + [(34, 36), (36, 36)]


def test_a_continuous_iterator_counts_what_it_has_read() -> None:
    seen: list[Any] = []
    read: list[int] = []

    def coming() -> Iterator[str]:
        for i in range(40):
            read.append(i)
            yield "A man"

    results = session_for("translate").translate_iter(
        coming(),
        max_new_tokens=1,
        batch_size=2,
        continuous=True,
        progress=lambda *done: seen.append((*done, len(read))),
    )
    for done, _ in enumerate(results, start=1):
        assert len(seen) == done, "reported once there is the result, not when the next one is asked for"
    assert [done for done, *_ in seen] == list(range(1, 41))
    assert all(of == texts_read for _, of, texts_read in seen)


def test_an_iterator_reads_no_further_than_it_must() -> None:
    session, read = session_for("translate"), []

    def endless() -> Iterator[str]:
        for i in itertools.count():
            read.append(i)
            yield "A man"

    results = session.translate_iter(endless(), max_new_tokens=1, batch_size=2)
    assert read == []
    for _ in range(3):
        next(results)
    assert len(read) == 32
    assert len(list(itertools.islice(results, 30))) == 30
    assert len(read) == 64


def test_an_iterator_names_texts_by_their_place_and_checks_arguments_at_once() -> None:
    session = session_for("translate")
    results = session.translate_iter(["A man"] * 20 + [" "], max_new_tokens=1, batch_size=1)
    assert len(list(itertools.islice(results, 16))) == 16
    with pytest.raises(InputError, match="text 20 is empty"):
        list(results)
    with pytest.raises(InputError, match=r"beam_size \(0\)"):
        session.translate_iter([], beam_size=0)
    with pytest.raises(InputError, match=r"progress \(5\) must be a function"):
        session.translate_iter([], progress=5)  # type: ignore[arg-type]
    bad: list[Any] = [("A man", ""), (5, ""), (["A man"], ["Ein"])]
    for texts_, prefix in bad:
        with pytest.raises(InputError, match="an iterator takes an iterable of texts, and one prefix for all of them"):
            session.translate_iter(texts_, prefix=prefix)


def test_a_text_too_large_for_memory_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate")
    monkeypatch.setattr(decoding, "memory_budget", lambda: 15_000)
    results = session.translate_iter(["A"] * 18 + ["A man is riding " * 3], max_new_tokens=1, batch_size=1)
    assert len(list(itertools.islice(results, 16))) == 16
    with pytest.raises(InputError, match=r"^text 18 would need"):
        list(session.translate_iter(["A"] * 18 + ["A man is riding " * 3], max_new_tokens=1, continuous=True))
    message = r"^text 18 would need .*: shorten it, or lower beam_size, samples, alternatives or max_new_tokens"
    with pytest.raises(InputError, match=message):
        list(results)


def test_batches_hold_so_many_tokens() -> None:
    session, inputs = session_for("translate"), texts(12)
    expected = [r.tokens for r in session.translate(inputs, max_new_tokens=2)]
    engine_of(session).encoded.clear()
    assert [r.tokens for r in session.translate(inputs, max_new_tokens=2, max_batch_tokens=20)] == expected
    shapes = engine_of(session).encoded
    assert len(shapes) > 2
    assert all(rows * length <= 20 or rows == 1 for rows, length in shapes)
