"""A session over the reference: every task, batches, streams, limits, life and death."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from edgewise.errors import EngineError, InputError, TokenizerError
from edgewise.models import decode
from edgewise.runtime import decoding, verify
from edgewise.runtime.bundle.manifest import Generation
from edgewise.runtime.decoding import batches_of, score_all
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.results import Generation as Result
from edgewise.runtime.session import Session
from edgewise.runtime.tokenizer import Tokenizer

from ..tiny import END, MASK, START
from .tiny_session import session_for, tokenizer
from .torch_engine import TorchEngine

WORDS = ["A", "man", "is", "riding", "two", "dogs", "grass", "hat", "日本"]
TASKS = ["translate", "generate", "fill_mask", "classify"]
METHODS: dict[str, Any] = {
    "translate": lambda s: s.translate("A man"),
    "generate": lambda s: s.generate("A man"),
    "stream": lambda s: s.stream("A man"),
    "score": lambda s: s.score("A man", "A man" if s.manifest.task == "translate" else None),
    "encode": lambda s: s.encode("A man"),
    "classify": lambda s: s.classify("A man"),
    "fill_mask": lambda s: s.fill_mask("A <mask>"),
}
FITTING = {
    "translate": {"translate", "stream", "score"},
    "generate": {"generate", "stream", "score"},
    "fill_mask": {"fill_mask", "encode"},
    "classify": {"classify", "encode"},
}


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(1, 7))) for _ in range(count)]


def engine_of(session: Session) -> TorchEngine:
    assert isinstance(session.engine, TorchEngine)
    return session.engine


def oracle(session: Session, text: str, beam_size: int, limit: int | None = None) -> list[decode.Decoded]:
    ids = tokenizer().encode(text)
    source = [*ids, END] if session.manifest.task == "translate" else [START, *ids]
    wanted = limit or min(len(source) + 50, session.manifest.max_context)
    prompt = 1 if session.manifest.task == "translate" else len(source)
    wanted = min(wanted, session.manifest.max_context + 1 - prompt)
    return decode.beam(engine_of(session).model, source, beam_size, 0.6, wanted, beam_size)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_results_are_the_oracles_in_input_order(task: str, beam_size: int) -> None:
    session = session_for(task, 1)  # type: ignore[arg-type]
    inputs = texts(9)
    call = session.translate if task == "translate" else session.generate
    found = call(inputs, beam_size=beam_size, n_best=beam_size, max_new_tokens=15, batch_size=4)
    for text, result in zip(inputs, found, strict=True):
        expected = oracle(session, text, beam_size, 15)
        assert [h.tokens for h in result.hypotheses] == [h.tokens for h in expected]
        for one, other in zip(result.hypotheses, expected, strict=True):
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-5)
            assert (one.score, one.finish_reason) == (sum(one.token_log_probs), other.finish_reason)
            assert one.normalized_score == pytest.approx(other.normalized_score, abs=1e-4)
    assert len({len(r.tokens) for r in found}) > 1, "the lengths should vary, or this shows little"


def test_a_result_says_what_was_read_and_how_long_it_took() -> None:
    session = session_for("translate")
    result = session.translate("A man is riding", max_new_tokens=5)
    ids = tokenizer().encode("A man is riding")
    assert result.source_tokens == (*ids, END)
    assert not result.truncated
    assert (result.text, result.tokens, result.score) == (
        result.hypotheses[0].text,
        result.hypotheses[0].tokens,
        result.hypotheses[0].score,
    )
    assert result.text == tokenizer().decode(result.tokens)
    assert 0 < result.timings.first_token <= result.timings.total
    assert {r.timings.batch for r in session.translate(texts(5), max_new_tokens=3, batch_size=3)} == {3, 2}


def test_one_text_gives_one_result_and_a_list_gives_a_list() -> None:
    session = session_for("translate")
    alone = session.translate("A man", max_new_tokens=4)
    assert isinstance(alone, Result)
    assert [r.tokens for r in session.translate(["A man"], max_new_tokens=4)] == [alone.tokens]
    assert session.translate([]) == []
    assert session.translate(("A man",), max_new_tokens=4)[0].tokens == alone.tokens


def test_the_bundle_has_the_defaults() -> None:
    defaults = Generation(beam_size=3, length_penalty=1.5, max_new_tokens=4)
    session = session_for("translate", 2, changes={"generation": defaults})
    asked = session_for("translate", 2)
    expected = asked.translate("A man", beam_size=3, length_penalty=1.5, max_new_tokens=4)
    assert session.translate("A man").hypotheses == expected.hypotheses
    assert engine_of(session).runs[-1].beams == 3
    assert session.translate("A man", beam_size=1, max_new_tokens=2).tokens != ()
    assert engine_of(session).runs[-1].beams == 1


def test_sentences_of_similar_length_go_together() -> None:
    session = session_for("translate")
    session.translate(["A", "A man is riding a hat", "A", "A man is riding a man"], max_new_tokens=2, batch_size=2)
    shapes = engine_of(session).encoded
    assert [rows for rows, _ in shapes] == [2, 2]
    assert shapes[0][1] > shapes[1][1]


def test_batches_shrink_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate")
    expected = [r.tokens for r in session.translate(texts(6), max_new_tokens=4)]
    monkeypatch.setattr(decoding, "memory_budget", lambda: 80_000)
    assert [r.tokens for r in session.translate(texts(6), max_new_tokens=4)] == expected
    assert len(engine_of(session).encoded) > 2
    monkeypatch.setattr(decoding, "memory_budget", lambda: 1000)
    with pytest.raises(InputError, match=r"would need about .* MiB of memory and 0 MiB may be used"):
        session.translate(texts(6), max_new_tokens=4)


@pytest.mark.parametrize("task", ["translate", "generate"])
def test_a_stream_that_memory_does_not_hold_is_refused_at_once(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for(task)
    call = session.translate if task == "translate" else session.generate
    monkeypatch.setattr(decoding, "memory_budget", lambda: 1000)
    refusals = []
    for decode_one in (call, session.stream):
        with pytest.raises(InputError, match="would need about 0 MiB of memory and 0 MiB may be used") as caught:
            decode_one("A man", max_new_tokens=4)
        refusals.append(str(caught.value).removeprefix("text 0").removeprefix("text"))
    assert refusals[0] == refusals[1]
    assert engine_of(session).runs == engine_of(session).encoded == []


def test_planning_reads_the_requests_as_often_however_many_they_are() -> None:
    class Counted(list[decoding.Request]):
        reads = 0

        def __iter__(self) -> Iterator[decoding.Request]:
            self.reads += 1
            return super().__iter__()

    model, reads = session_for("translate").manifest.model, []
    for number in (2, 40):
        requests = Counted(decoding.Request(source=Prepared(ids=(5, END)), limit=3) for _ in range(number))
        assert len(batches_of(model, requests, DecodingOptions(), 1)) == number
        reads.append(requests.reads)
    assert reads[0] == reads[1]


def test_prompts_of_equal_length_go_together_unpadded() -> None:
    session = session_for("generate")
    prompts = ["A", "A man is", "A", "is A man", "A man"]
    session.generate(prompts, max_new_tokens=1, beam_size=2)
    lengths = [len(tokenizer().encode(p)) + 1 for p in prompts]
    shapes = {(run.read.shape[0] // 2, run.read.shape[1]) for run in engine_of(session).runs}
    assert shapes == {(lengths.count(n), n) for n in lengths}
    assert len(shapes) < len(prompts)


@pytest.mark.parametrize("task", ["translate", "generate"])
@pytest.mark.parametrize("seed", range(3))
def test_a_stream_joins_to_the_greedy_result(task: str, seed: int) -> None:
    session = session_for(task, seed)  # type: ignore[arg-type]
    call = session.translate if task == "translate" else session.generate
    for text in texts(3, seed):
        pieces = list(session.stream(text, max_new_tokens=12))
        assert "".join(pieces) == call(text, beam_size=1, max_new_tokens=12).text
        assert all(pieces)


def test_a_stream_comes_step_by_step_and_stops_when_closed() -> None:
    session = session_for("translate", end_bias=-50.0)
    stream = session.stream("A man", max_new_tokens=40)
    assert engine_of(session).runs == []
    next(stream)
    (run,) = engine_of(session).runs
    steps = run.steps
    assert steps < 39
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []
    assert run.steps == steps


def test_a_stream_says_at_once_what_is_wrong_with_its_text() -> None:
    with pytest.raises(InputError, match="text is empty"):
        session_for("translate").stream(" ")


def test_a_continuation_follows_its_prompt() -> None:
    session = session_for("generate", 3)
    result = session.generate("A man", max_new_tokens=6)
    prompt = tokenizer().encode("A man")
    assert result.source_tokens == (START, *prompt)
    assert "A man" + result.text == tokenizer().decode([*prompt, *result.tokens])


@pytest.mark.parametrize("task", ["translate", "generate"])
def test_scores_are_those_of_the_reference(task: str) -> None:
    session = session_for(task)  # type: ignore[arg-type]
    sources, targets = texts(5, 1), texts(5, 2)
    found = session.score(sources, targets, batch_size=2) if task == "translate" else session.score(targets)
    model = engine_of(session).model
    for source, target, result in zip(sources, targets, found, strict=True):
        ids = tokenizer().encode(target)
        memory = decode.remember(model, [[*tokenizer().encode(source), END]])
        with torch.inference_mode():
            rows = [decode.next_logits(model, memory, [[START, *ids[:t]]])[0] for t in range(len(ids) + 1)]
        expected = [float(row.log_softmax(-1)[token]) for row, token in zip(rows, [*ids, END], strict=True)]
        assert result.tokens == (*ids, END)
        assert result.token_log_probs == pytest.approx(expected, abs=1e-5)
        assert result.score == sum(result.token_log_probs)


def test_a_result_scores_itself() -> None:
    session = session_for("translate", 1, end_bias=2.0)
    result = session.translate("A man is riding", max_new_tokens=30)
    assert result.hypotheses[0].finish_reason == "end"
    source, target = Prepared(ids=result.source_tokens, prompt=(START,)), result.tokens[:-1]
    (found,) = score_all(session.engine, session.manifest.model, [source], [target], 1, lambda: None)
    assert found.tokens == result.tokens
    assert found.token_log_probs == pytest.approx(result.hypotheses[0].token_log_probs, abs=1e-5)


def test_scores_of_unequal_lists_and_missing_targets() -> None:
    with pytest.raises(InputError, match="there are 2 sources and 1 targets: pass one target a source"):
        session_for("translate").score(["A", "man"], ["A"])
    with pytest.raises(InputError, match="score takes sources and targets of a translation bundle"):
        session_for("translate").score("A")
    with pytest.raises(InputError, match="and only texts of another one"):
        session_for("generate").score("A", "man")


def test_classes_are_those_of_the_reference() -> None:
    session = session_for("classify")
    inputs = texts(7)
    found = session.classify(inputs, batch_size=3)
    model = engine_of(session).model
    for text, result in zip(inputs, found, strict=True):
        ids = torch.tensor([[*tokenizer().encode(text), END]])
        seen = torch.ones_like(ids, dtype=torch.bool)
        with torch.inference_mode():
            expected = model.classify(model.encode(ids, seen), seen).softmax(-1)[0].tolist()
        assert list(result.probabilities) == ["negative", "positive"]
        assert list(result.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        assert result.probability == max(result.probabilities.values())
        assert result.probabilities[result.label] == result.probability
    assert session.classify(inputs[0]) == session.classify([inputs[0]])[0]


@pytest.mark.parametrize("task", ["classify", "fill_mask"])
def test_states_are_those_of_the_reference(task: str) -> None:
    session = session_for(task)  # type: ignore[arg-type]
    inputs = texts(5)
    for text, result in zip(inputs, session.encode(inputs, batch_size=2), strict=True):
        ids = torch.tensor([[*tokenizer().encode(text), END]])
        with torch.inference_mode():
            expected = engine_of(session).model.encode(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        assert result.tokens == tuple(ids[0].tolist())
        assert result.hidden.dtype == np.float32
        np.testing.assert_allclose(result.hidden, expected.numpy(), atol=1e-5)
    assert session.encode("A man").hidden.shape[0] == len(tokenizer().encode("A man")) + 1


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [
        ("A man is <mask> a bicycle.", "A man is", "a bicycle."),
        ("A man is riding a <mask>.", "A man is riding a", None),
        ("<mask> dogs run", "", "dogs run"),
        ("Two dogs <mask>", "Two dogs", ""),
        ("Two bicy<mask> run", "Two bicy", "run"),
    ],
)
def test_a_mask_is_read_as_a_word(text: str, left: str, right: str | None) -> None:
    session = session_for("fill_mask")
    found = session.fill_mask(text, top=3)
    before = tokenizer().encode(left) if left else []
    after = [tokenizer().encode("bicycle.")[-1]] if right is None else tokenizer().encode(right) if right else []
    ids = torch.tensor([[*before, MASK, *after, END]])
    model = engine_of(session).model
    with torch.inference_mode():
        expected = model.logits(model.encode(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(before)]).softmax(-1)
    best = expected[4:].topk(3)  # specials are not proposed
    assert [f.token for f in found] == (best.indices + 4).tolist()
    assert [f.probability for f in found] == pytest.approx(best.values.tolist(), abs=1e-5)
    for fill in found:
        assert fill.piece == tokenizer().piece(fill.token)
        assert fill.text == tokenizer().decode([*before, fill.token, *after])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A man", "text has 0 times <mask>, expected once"),
        ("<mask> <mask>", "text has 2 times <mask>"),
        ("<mask> \U0010fffd", r"text holds U\+10FFFD, which stands for the mask in here"),
        (" ", "text is empty"),
        ("A <mask> " + "man " * 100, r"text has \d+ tokens, more than the 64 this model reads"),
    ],
)
def test_texts_without_one_mask(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session_for("fill_mask").fill_mask(text)


def test_a_tokenizer_that_cannot_place_the_mask() -> None:
    session = session_for("fill_mask")

    class Lossy(Tokenizer):
        def encode(self, text: str, name: str = "text") -> list[int]:
            return [5] if "<" not in text and len(text) > 1 else [6, 7]

    session.tokenizer = Lossy.__new__(Lossy)
    session.tokenizer.__dict__.update(tokenizer().__dict__)
    with pytest.raises(InputError, match="the tokenizer of this bundle cannot place <mask> in the text"):
        session.fill_mask("A <mask>")


def test_nan_logits_are_an_engine_error() -> None:
    for task, call in (
        ("translate", lambda s: s.translate("A man")),
        ("translate", lambda s: s.score("A man", "A")),
        ("classify", lambda s: s.classify("A man")),
        ("fill_mask", lambda s: s.fill_mask("A <mask>")),
    ):
        session = session_for(task)  # type: ignore[arg-type]
        engine_of(session).model.embedding.weight.data[4:] = float("nan")
        with pytest.raises(EngineError, match=r"NaN.* run `edgewise verify`"):
            call(session)


@pytest.mark.parametrize("added", [False, True], ids=["vocabulary", "added tokens"])
def test_another_models_tokenizer_is_refused(added: bool) -> None:
    """By its greatest id: of its tokens alone there may be few enough."""
    session = session_for("translate")
    vocabulary = {"<unk>": 0, "a": 1, "b": 329 if added else 330}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))

    def opened() -> Session:
        return Session(session.bundle, session.variant, session.engine, Tokenizer(library.to_str().encode()))

    if added:
        opened()
        library.add_tokens([f"new{i}" for i in range(328)])  # ids from 3 on
    message = "the tokenizer has the token id 330, and the model's vocabulary ends at 329: it is another model's"
    with pytest.raises(TokenizerError, match=message):
        opened()


def test_a_session_describes_itself() -> None:
    assert session_for("translate").describe() == {
        "name": "tiny",
        "path": "tiny",
        "task": "translate",
        "languages": {"source": "en", "target": "de"},
        "target": "cpu",
        "precision": "fp32",
        "max_context": 64,
        "licence": "none",
        "hashes_checked": True,
        "engine": {"engine": "torch", "version": torch.__version__, "device": "CPU", "threads": 1},
    }
    assert session_for("classify").describe()["languages"] is None


def test_verify_is_the_replay_of_the_reference_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate")
    monkeypatch.setattr(verify, "verify", lambda *arguments: arguments)
    assert session.verify() == (session, None)
    assert session.verify(print) == (session, print)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_a_closed_session_says_so_and_closes_twice(task: str) -> None:
    with session_for(task) as session:  # type: ignore[arg-type]
        pass
    session.close()
    for method in sorted(FITTING[task]):
        with pytest.raises(EngineError, match=r"this session is closed: open another with edgewise\.load"):
            METHODS[method](session)


def test_closing_stops_a_running_stream() -> None:
    session = session_for("translate", end_bias=-50.0)
    stream = session.stream("A man", max_new_tokens=40)
    next(stream)
    session.close()
    with pytest.raises(EngineError, match="the session was closed while this request was running"):
        list(stream)


def test_closing_stops_running_threads() -> None:
    session = session_for("translate", end_bias=-50.0)
    started, errors = threading.Event(), []

    def work() -> None:
        try:
            while True:
                started.set()
                session.translate("A man", max_new_tokens=60)
        except EngineError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    session.close()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(errors) == 3


def test_threads_get_what_they_would_get_alone() -> None:
    session, inputs = session_for("translate", 2), texts(8)
    expected = [session.translate(t, beam_size=2, max_new_tokens=10).hypotheses for t in inputs]
    found: list[Any] = [None] * 8

    def work(i: int) -> None:
        found[i] = session.translate(inputs[i], beam_size=2, max_new_tokens=10).hypotheses

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_to_open_its_own_session() -> None:
    session = session_for("translate")
    stream = session.stream("A man", max_new_tokens=30)
    next(stream)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        said = []
        for action in (lambda: session.translate("A man"), lambda: list(stream)):
            try:
                action()
            except EngineError as error:
                said.append(str(error))
        os.write(writer, "\n".join(said).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    lines = os.read(reader, 10_000).decode().splitlines()
    os.close(reader)
    assert len(lines) == 2
    assert all("opened before a fork" in line and "call edgewise.load in the child" in line for line in lines)
