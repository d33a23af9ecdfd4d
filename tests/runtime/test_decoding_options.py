"""Options through a session: against the naive oracle, in batches, in streams, and cut short."""

from __future__ import annotations

import itertools
import json
import threading
from typing import Any

import pytest

import edgewise
from edgewise.errors import ContextLengthError, InputError
from edgewise.models import decode_options
from edgewise.models.decode_options import Naive, Options
from edgewise.runtime import interrupt
from edgewise.runtime.options import Sampling
from edgewise.runtime.session import Session
from edgewise.runtime.tokenizer import Tokenizer

from ..tiny import END, START
from .test_session import engine_of, texts
from .tiny_session import session_for, tokenizer, tokenizer_json

Task = Any
SEED = 6


def source_of(session: Session, text: str) -> list[int]:
    ids = tokenizer().encode(text)
    return [*ids, END] if session.manifest.task == "translate" else [START, *ids]


def text_of(session: Session, text: str) -> Any:
    prompt = () if session.manifest.task == "translate" else source_of(session, text)
    return tokenizer().text_after(prompt)


def call(session: Session, inputs: Any, **arguments: Any) -> Any:
    return (session.translate if session.manifest.task == "translate" else session.generate)(inputs, **arguments)


def assert_same(found: Any, expected: list[Naive]) -> None:
    assert [h.tokens for h in found.hypotheses] == [n.tokens for n in expected]
    for one, other in zip(found.hypotheses, expected, strict=True):
        assert one.token_log_probs == pytest.approx(other.log_probs, abs=1e-4)
        assert (one.score, one.finish_reason) == (sum(one.token_log_probs), other.reason)


SEARCHES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.5, "no_repeat_ngram": 2},
    {"presence_penalty": 0.5, "frequency_penalty": 0.5, "min_new_tokens": 5},
    {"beam_size": 3, "n_best": 3, "repetition_penalty": 1.2, "early_stopping": True},
    {"beam_size": 4, "n_best": 4, "beam_groups": 2, "diversity_penalty": 1.0},
    {"beam_size": 2, "n_best": 2, "early_stopping": "never", "patience": 2.0, "suppress": [(270,), (280, 281)]},
    {"alternatives": 3, "logit_bias": {300: 3.0}},
    {"beam_size": 4, "n_best": 4, "include": [(270, 280), (300,)], "presence_penalty": 0.2},
]


@pytest.mark.parametrize("options", SEARCHES, ids=str)
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_searches_are_the_oracles(task: Task, options: dict[str, Any]) -> None:
    session, inputs = session_for(task, 1, end_bias=0.5), texts(5)
    for text, found in zip(inputs, call(session, inputs, max_new_tokens=9, batch_size=3, **options), strict=True):
        model, asked = engine_of(session).model, Options(**options, max_new_tokens=9)
        expected, margin = decode_options.beam(model, source_of(session, text), asked)
        assert margin > 1e-5, "choose another seed: this one hangs on rounding"
        assert_same(found, expected)


@pytest.mark.parametrize("task", ["translate", "generate"])
def test_samples_are_the_oracles_whatever_the_batch(task: Task) -> None:
    session, inputs = session_for(task, 2, end_bias=1.0), texts(6)
    filters = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.01}
    found = call(
        session, inputs, max_new_tokens=8, sampling=Sampling(**filters, seed=SEED, samples=2), no_repeat_ngram=2
    )
    compared = 0
    for text, result in zip(inputs, found, strict=True):
        asked = Options(**filters, no_repeat_ngram=2, max_new_tokens=8)
        source = source_of(session, text)
        expected, margin = decode_options.sample(engine_of(session).model, source, asked, SEED, 2)
        if margin > 1e-6:  # of hundreds of tokens two may be as probable but for rounding
            assert_same(result, expected)
            compared += 1
        alone = call(session, text, max_new_tokens=8, sampling=Sampling(**filters, seed=SEED), no_repeat_ngram=2)
        assert alone.tokens == result.tokens
    assert compared > 3
    assert len({r.tokens for r in found}) > 1


def test_sampling_without_a_seed_is_another_draw_every_time() -> None:
    session = session_for("translate", end_bias=-50.0)
    drawn = {session.translate("A man", sampling=Sampling(), max_new_tokens=8).tokens for _ in range(4)}
    assert len(drawn) == 4


def test_sampling_does_without_the_beams_of_the_bundle() -> None:
    defaults = edgewise.runtime.bundle.manifest.Generation(beam_size=3, length_penalty=0.6, max_new_tokens=4)
    session = session_for("translate", changes={"generation": defaults})
    assert len(session.translate("A man", sampling=Sampling(samples=2)).hypotheses) == 2
    assert len(session.translate("A man", alternatives=2).hypotheses) == 2
    with pytest.raises(InputError, match="sampling needs beam_size 1, this is 3"):
        session.translate("A man", sampling=Sampling(), beam_size=3)


@pytest.mark.parametrize(
    "arguments", [{}, {"beam_size": 3}, {"sampling": Sampling(seed=3)}, {"alternatives": 2}], ids=str
)
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_a_result_begins_with_its_prefix(task: Task, arguments: dict[str, Any]) -> None:
    session = session_for(task, 1)
    prefixes = ["Ein Mann", "", "Two dogs run"]
    found = call(session, texts(3), prefix=prefixes, max_new_tokens=15, **arguments)
    for prefix, text, result in zip(prefixes, texts(3), found, strict=True):
        ids = tokenizer().encode(prefix) if prefix else []
        for hypothesis in result.hypotheses:
            assert hypothesis.tokens[: len(ids)] == tuple(ids)
            assert len(hypothesis.tokens) > len(ids)
            assert hypothesis.text.lstrip().startswith(prefix)
        if not arguments:
            asked = Options(prefix=ids, max_new_tokens=15)
            expected, _ = decode_options.beam(engine_of(session).model, source_of(session, text), asked)
            assert_same(result, expected)


def test_a_prefix_counts_as_scoring_it_does() -> None:
    session = session_for("translate", 1, end_bias=3.0)
    result = session.translate("A man is riding", prefix="Ein Mann", max_new_tokens=40)
    assert result.hypotheses[0].finish_reason == "end"
    found = session.score("A man is riding", result.text.lstrip())
    assert found.tokens == result.tokens, "choose another seed: this text is split in another way"
    assert result.score == pytest.approx(found.score, abs=1e-4)


@pytest.mark.parametrize("arguments", [{}, {"beam_size": 3, "n_best": 3}], ids=str)
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_a_prefix_that_is_likelier_is_the_oracles(task: Task, arguments: dict[str, Any]) -> None:
    session, prefixes, begun = session_for(task, 1, end_bias=0.5), ["Ein Mann", "", "Two dogs run"], set()
    for bias in (0.02, 0.3, 0.9):
        found = call(session, texts(3), prefix=prefixes, prefix_bias=bias, max_new_tokens=12, **arguments)
        for prefix, text, result in zip(prefixes, texts(3), found, strict=True):
            ids = tokenizer().encode(prefix) if prefix else []
            asked = Options(prefix=ids, prefix_bias=bias, max_new_tokens=12, **arguments)
            expected, margin = decode_options.beam(engine_of(session).model, source_of(session, text), asked)
            assert margin > 1e-5, "choose another seed: this one hangs on rounding"
            assert_same(result, expected)
            begun |= {result.tokens[: len(ids)] == tuple(ids)} if ids else set()
            stream = {"prefix": prefix, "prefix_bias": bias, "max_new_tokens": 12} if prefix else None
            if stream and not arguments:
                assert "".join(session.stream(text, **stream)) == result.text
    assert begun == {True, False}, "a bias of which all, or none, keep the prefix shows little"


@pytest.mark.parametrize("arguments", [{}, {"prefix": ""}, {"prefix": [""]}], ids=str)
def test_a_bias_needs_a_prefix(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"prefix_bias \(0.3\) needs a prefix: pass one, or leave it out"):
        session_for("translate").translate(["A man"], prefix_bias=0.3, **arguments)


def test_what_a_rule_forbids_gets_no_bias() -> None:
    ids = tokenizer().encode("Ein Mann")
    found = session_for("translate").translate("A", prefix="Ein Mann", prefix_bias=0.99, suppress=[[ids[0]]])
    assert ids[0] not in found.tokens


def test_one_prefix_for_all() -> None:
    session = session_for("translate")
    assert [r.text.split()[0] for r in session.translate(texts(3), prefix="Ein", max_new_tokens=6)] == ["Ein"] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix": ["a", "b"]}, r"prefix \(\['a', 'b'\]\) must be a string, or a list of one for each of 1 texts"),
        ({"prefix": 5}, r"prefix \(5\) must be a string, or a list"),
        ({"prefix": "\0"}, "the prefix of text 0 holds a NUL"),
        ({"prefix": "Ein Mann", "stop": ["Mann"]}, "the prefix of text 0 holds the stop string 'Mann', where its"),
        ({"include": [[4], [330]], "beam_size": 2}, "include has the token id 330, and the vocabulary ends at 329"),
        (
            {"include": ["hat", "bicycle"], "suppress": ["dog", "bicycle"], "beam_size": 2},
            r"include \('bicycle'\) and suppress \('bicycle'\) contradict each other: the one cannot come without the",
        ),
        (
            {"include": [[270, 280, 300]], "suppress": [(280, 300)], "beam_size": 2},
            r"include \(\[270, 280, 300\]\) and suppress \(\(280, 300\)\) contradict each other",
        ),
        ({"suppress": [[330]]}, "suppress has the token id 330, and the vocabulary ends at 329"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias has the token id -1, and the vocabulary ends at 329"),
        ({"cancellation": True}, r"cancellation \(True\) must be an edgewise.Cancellation, or None"),
        ({"max_batch_tokens": 0}, r"max_batch_tokens \(0\) must be an integer of at least 1"),
        (
            {"suppress": [[t] for t in range(330)]},
            "text 0: the options leave no token that may follow after 0 new ones",
        ),
    ],
    ids=str,
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        session_for("translate").translate(["A man"], **arguments)


def test_a_prefix_that_leaves_no_room() -> None:
    ids = tokenizer().encode("Ein Mann")
    with pytest.raises(ContextLengthError, match=f"the prefix of text 0 has {len(ids)} tokens and a result {len(ids)}"):
        session_for("translate").translate("A", prefix="Ein Mann", max_new_tokens=len(ids))


def test_suppressed_texts_do_not_come() -> None:
    session = session_for("translate", 1, end_bias=-50.0)
    plain = session.translate("A man", max_new_tokens=12)
    word = max(plain.text.split(), key=len)
    ids = tokenizer().encode(word)
    found = session.translate("A man", max_new_tokens=12, suppress=[tuple(ids[-1:]), word])
    assert ids[-1] in plain.tokens
    assert ids[-1] not in found.tokens


def test_a_text_that_must_come_may_share_tokens_with_one_that_must_not() -> None:
    session = session_for("translate", 1)
    found = session.translate(
        "A man", beam_size=4, max_new_tokens=20, include=[(270, 280)], suppress=[(280, 270), (281,)]
    )
    assert (270, 280) in itertools.pairwise(found.tokens)


def test_texts_that_must_come_do() -> None:
    session, wanted = session_for("translate", 1), ["bicycle", "Ein hat"]
    for result in session.translate(texts(4), beam_size=5, n_best=5, max_new_tokens=20, include=wanted):
        for hypothesis in result.hypotheses:
            assert all(text in hypothesis.text for text in wanted)
        assert "".join(session.stream("A man", beam_size=5, include=wanted, max_new_tokens=20)).count("bicycle")


# --- stop strings -----------------------------------------------------------------------------------------------------


def stop_within(result: Any) -> str:
    """Three characters of a text that no token of it holds, so that they lie across tokens."""
    pieces = [tokenizer().decode([token]) for token in result.tokens]
    windows = [result.text[i : i + 3] for i in range(4, len(result.text) - 3)]
    return next(w for w in windows if not any(w in piece for piece in pieces))


@pytest.mark.parametrize("arguments", [{}, {"beam_size": 3}, {"sampling": Sampling(seed=2)}], ids=str)
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_a_stop_string_ends_a_result_and_is_not_in_it(task: Task, arguments: dict[str, Any]) -> None:
    session = session_for(task, 3, end_bias=-50.0)
    plain = call(session, "A man", max_new_tokens=20, **arguments)
    stop = stop_within(plain)
    result = call(session, "A man", max_new_tokens=20, stop=[stop, "\ufffe"], **arguments)
    best = result.hypotheses[0]
    whole = text_of(session, "A man")(best.tokens)
    if "beam_size" not in arguments:
        assert best.tokens == plain.tokens[: len(best.tokens)]
        assert best.finish_reason == "stop"
        assert result.text == plain.text[: plain.text.index(stop)]
    assert (best.finish_reason == "stop") == (stop in whole)
    assert stop not in result.text
    assert stop not in text_of(session, "A man")(best.tokens[:-1]), "it went on behind a stop string"
    assert best.score == sum(best.token_log_probs)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_stopped_searches_are_the_oracles(task: Task, beam_size: int) -> None:
    reasons = set()
    for seed in range(4):
        session = session_for(task, seed, end_bias=0.5)
        stop = ["e", "an", "s"]
        result = call(session, "A man is", max_new_tokens=12, stop=stop, beam_size=beam_size, n_best=beam_size)
        asked = Options(beam_size=beam_size, n_best=beam_size, stop=stop, max_new_tokens=12)
        source = source_of(session, "A man is")
        expected, _ = decode_options.beam(engine_of(session).model, source, asked, text_of(session, "A man is"))
        assert_same(result, expected)
        reasons |= {h.finish_reason for h in result.hypotheses}
    assert "stop" in reasons


# --- streams ----------------------------------------------------------------------------------------------------------


STREAMS: list[dict[str, Any]] = [
    {},
    {"beam_size": 3},
    {"beam_size": 4, "beam_groups": 2, "diversity_penalty": 0.5},
    {"sampling": Sampling(seed=4, top_k=20)},
    {"repetition_penalty": 1.5},
    {"prefix": "Ein Mann"},
    {"beam_size": 3, "include": ["hat"]},
    {"beam_size": 2, "prefix": "Ein Mann", "no_repeat_ngram": 2},
    {"stop": ["e", "an"]},
    {"beam_size": 3, "stop": ["e", "an"]},
]


@pytest.mark.parametrize("arguments", STREAMS, ids=str)
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_pieces_join_to_the_result(task: Task, arguments: dict[str, Any]) -> None:
    for seed in range(3):
        session = session_for(task, seed, end_bias=0.5)
        for text in texts(3, seed):
            pieces = list(session.stream(text, max_new_tokens=12, **arguments))
            assert "".join(pieces) == call(session, text, max_new_tokens=12, **{"beam_size": 1, **arguments}).text
            assert all(pieces)


def test_a_beam_streams_before_its_end() -> None:
    early = 0
    for seed in range(6):
        session = session_for("translate", seed, end_bias=-50.0)
        stream = session.stream("A man", beam_size=2, max_new_tokens=40)
        next(stream)
        early += engine_of(session).runs[0].steps < 39
    assert early > 2


def test_a_stream_holds_back_what_may_begin_a_stop_string() -> None:
    session = session_for("translate", 3, end_bias=-50.0)
    result = session.translate("A man", beam_size=1, max_new_tokens=20)
    plain, stop = result.text, stop_within(result)
    shown = ""
    for piece in session.stream("A man", max_new_tokens=20, stop=[stop]):
        shown += piece
        assert plain[: plain.index(stop)].startswith(shown)
    assert shown == plain[: plain.index(stop)]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [({"beam_size": 2, "n_best": 2}, 2), ({"sampling": Sampling(samples=3)}, 3), ({"alternatives": 2}, 2)],
)
def test_a_stream_gives_one_result(arguments: dict[str, Any], count: int) -> None:
    with pytest.raises(InputError, match=f"stream gives one result, and {count} are asked for: call translate"):
        session_for("translate").stream("A man", **arguments)


# --- cut short --------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that goes on by one second whenever it is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(interrupt, "monotonic", self.read)

    def read(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"beam_size": 3, "n_best": 3},
        {"sampling": Sampling(seed=1, samples=2)},
        {"alternatives": 3},
        {"min_new_tokens": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("inputs", [1, 5])
def test_a_deadline_gives_what_there_is(
    inputs: int, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_for("translate", 1, end_bias=-50.0)
    whole = session.translate(texts(inputs), max_new_tokens=20, **arguments)
    Clock(monkeypatch)
    found = session.translate(texts(inputs), max_new_tokens=20, deadline=6, **arguments)
    for result, complete in zip(found, whole, strict=True):
        assert {h.finish_reason for h in result.hypotheses} == {"deadline"}
        assert {len(h.tokens) for h in result.hypotheses} == {5}
        assert all(h.score == sum(h.token_log_probs) for h in result.hypotheses)
        if "beam_size" not in arguments:
            assert [h.tokens for h in result.hypotheses] == [h.tokens[:5] for h in complete.hypotheses]


def test_what_is_complete_by_the_deadline_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate", 1, end_bias=1.0)
    for beam_size in (1, 3):
        whole = session.translate(texts(9), beam_size=beam_size, max_new_tokens=30)
        with monkeypatch.context() as patch:
            Clock(patch)
            found = session.translate(texts(9), beam_size=beam_size, max_new_tokens=30, deadline=9)
        reasons = [r.hypotheses[0].finish_reason for r in found]
        assert {"end", "deadline"} <= set(reasons)
        for result, complete, reason in zip(found, whole, reasons, strict=True):
            if reason == "end" and beam_size == 1:
                assert result.hypotheses == complete.hypotheses


def test_texts_that_had_no_turn_have_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate", end_bias=-50.0)
    Clock(monkeypatch)
    found = session.translate(texts(4), max_new_tokens=9, batch_size=2, deadline=5)
    assert sorted(len(r.tokens) for r in found) == [0, 0, 4, 4]
    assert {r.hypotheses[0].finish_reason for r in found} == {"deadline"}
    assert min(found, key=lambda r: len(r.tokens)).text == ""


def test_cancelled_before_it_began() -> None:
    session, cancellation = session_for("translate"), edgewise.Cancellation()
    cancellation.cancel()
    cancellation.cancel()
    result = session.translate("A man", cancellation=cancellation)
    assert (result.text, result.tokens, result.score) == ("", (), 0)
    assert result.hypotheses[0].finish_reason == "cancelled"
    assert engine_of(session).encoded == []
    assert list(session.stream("A man", cancellation=cancellation)) == []


@pytest.mark.parametrize("arguments", [{}, {"beam_size": 2}], ids=str)
def test_cancelled_from_another_thread(arguments: dict[str, Any]) -> None:
    session, cancellation = session_for("translate", end_bias=-50.0), edgewise.Cancellation()
    found: list[Any] = []

    def work() -> None:
        found.append(session.translate("A man", max_new_tokens=60, cancellation=cancellation, **arguments))

    run_step = engine_of(session)
    thread = threading.Thread(target=work)
    thread.start()
    while not run_step.runs:
        thread.join(timeout=0.001)
    cancellation.cancel()
    thread.join(timeout=30)
    assert found[0].hypotheses[0].finish_reason == "cancelled"
    assert 0 < len(found[0].tokens) < 60


@pytest.mark.parametrize("arguments", [{}, {"beam_size": 3}, {"sampling": Sampling(seed=0)}], ids=str)
def test_a_cancelled_stream_ends_with_what_there_is(arguments: dict[str, Any]) -> None:
    session, cancellation = session_for("translate", 1, end_bias=-50.0), edgewise.Cancellation()
    stream = session.stream("A man", max_new_tokens=60, cancellation=cancellation, **arguments)
    first = next(stream)
    steps = engine_of(session).runs[0].steps
    cancellation.cancel()
    rest = "".join(stream)
    assert engine_of(session).runs[0].steps == steps
    whole = "".join(session.stream("A man", max_new_tokens=60, **arguments))
    if not arguments:
        assert whole.startswith(first + rest)
    assert len(first + rest) < len(whole)


def test_progress_counts_texts() -> None:
    seen: list[tuple[int, int]] = []
    session_for("translate").translate(texts(5), max_new_tokens=2, batch_size=2, progress=lambda *n: seen.append(n))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_prefix_without_tokens() -> None:
    session = session_for("translate")
    library = json.loads(tokenizer_json())
    library["normalizer"] = {"type": "Replace", "pattern": {"String": "\u00ad"}, "content": ""}
    session.tokenizer = Tokenizer(json.dumps(library).encode())
    assert session.tokenizer.encode("\u00ad") == []
    for call_it in (session.translate, session.stream):
        with pytest.raises(
            InputError, match=r"the prefix of text.* \('\\xad'\) has no tokens in this vocabulary: write"
        ):
            call_it("A man", prefix="\u00ad")
