"""What a session says with each head, beside the pipelines of ``transformers``, on one bundle a head."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

import edgewise
from edgewise.cli import main
from edgewise.errors import ContextLengthError, InputError
from edgewise.runtime.decoding import encode_all

from ..bundles import Damaged, export_few
from .encoders import CLASSES, ONE, TAGS, bert_head, library, library_fast
from .folders import WORDS, wordpiece

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "fill_mask": ("ForMaskedLM", {}),
    "classify": ("ForSequenceClassification", CLASSES),
    "labels": ("ForSequenceClassification", {**CLASSES, "problem_type": "multi_label_classification"}),
    "regress": ("ForSequenceClassification", ONE),
    "values": ("ForSequenceClassification", {**CLASSES, "problem_type": "regression"}),
    "tag": ("ForTokenClassification", TAGS),
    "answer": ("ForQuestionAnswering", {}),
}
TEXTS = ["a man is riding a bicycle .", "Dogs play in the snow!", "two dogs , riding on the red street ?"]
LONG = " ".join(WORDS[:16] * 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def made(name: str) -> Path:
        head, fields = HEADS[name]
        return bert_head(tmp_path_factory.mktemp("head") / f"tiny-{name}", head, len(name), **fields)

    return made


@pytest.fixture(scope="module")
def bundle(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``bundle(name)``: fp32 and int8 for both targets."""

    @cache
    def made(name: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / name
        export_few(folder(name), out)
        return out

    return made


def opened(bundle: Path, target: str = "cpu") -> edgewise.Session:
    return edgewise.load(bundle, target, "fp32", 1)


def tokenizer() -> Any:
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return library_fast(wordpiece(), mask_token="[MASK]", **special)


def pipeline(task: str, folder: Path, head: str, **arguments: Any) -> Any:
    model = library(folder, f"Bert{head}")
    return transformers.pipeline(task, model=model, tokenizer=tokenizer(), device="cpu", **arguments)


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
@pytest.mark.parametrize("name", HEADS)
def test_every_variant_replays_the_reference(name: str, variant: str, bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle(name), *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.summary()
    assert report.largest("logit") > 0
    assert name in ("regress", "answer") or report.positions >= 2 * len(report.cases)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("classify", "pooler.weight"),
        ("classify", "token_types.weight"),
        ("tag", "encoder.layers.1.attention.output.weight"),
        ("answer", "token_types.weight"),
        ("fill_mask", "transform.weight"),
        ("regress", "pooler.weight"),
    ],
)
def test_a_replay_sees_damage(name: str, tensor: str, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    damaged = Damaged(bundle(name), tmp_path / "damaged")
    damaged.put("cpu-fp32", tensor, damaged.tensor("cpu-fp32", tensor) * 1.02)
    with opened(damaged.path) as session:
        assert not session.verify().ok


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_masked_words_are_those_of_the_pipeline(
    target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path]
) -> None:
    fill = pipeline("fill-mask", folder("fill_mask"), "ForMaskedLM", top_k=29)
    for text in ("a man is <mask> .", "<mask> dogs play", "the girl,<mask>", "hat<mask>s xyz"):
        expected = [f for f in fill(text.replace("<mask>", "[MASK]")) if 5 <= f["token"] < 28][:5]
        with opened(bundle("fill_mask"), target) as session:
            found = [f for f in session.fill_mask(text, top=29) if 5 <= f.token < 28][:5]
        assert [f.token for f in found] == [f["token"] for f in expected]
        assert [f.probability for f in found] == pytest.approx([f["score"] for f in expected], abs=1e-4)
        assert [f.text for f in found] == [f["sequence"] for f in expected]


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("name", ["classify", "labels"])
def test_classes_are_those_of_the_pipeline(
    name: str, target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path]
) -> None:
    classify = pipeline("text-classification", folder(name), "ForSequenceClassification", top_k=None)
    pairs = [TEXTS[1], TEXTS[0], TEXTS[2]]
    asked = [{"text": text, "text_pair": pair} for text, pair in zip(TEXTS, pairs, strict=True)]
    with opened(bundle(name), target) as session:
        for found, expected in (
            (session.classify(TEXTS), [classify([text])[0] for text in TEXTS]),
            (session.classify(TEXTS, pairs=pairs), [classify([pair])[0] for pair in asked]),
        ):
            for own, theirs in zip(found, expected, strict=True):
                known = {row["label"]: row["score"] for row in theirs}
                assert own.probabilities == pytest.approx(known, abs=1e-4)
                assert own.label == theirs[0]["label"]
                assert own.probability == pytest.approx(theirs[0]["score"], abs=1e-4)
        assert session.classify(TEXTS[0], pairs=pairs[0]) == session.classify([TEXTS[0]], pairs=[pairs[0]])[0]


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("name", ["regress", "values"])
@torch.no_grad()
def test_values_and_ranks_are_those_of_the_library(
    name: str, target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path]
) -> None:
    model, query = library(folder(name), "BertForSequenceClassification"), "a man in the snow"
    logits = [model(**tokenizer()(query, text, return_tensors="pt")).logits[0] for text in TEXTS]
    values = [(row.sigmoid() if name == "regress" else row).tolist() for row in logits]
    with opened(bundle(name), target) as session:
        found = session.regress([query] * 3, pairs=TEXTS)
        assert [list(rating.values.values()) for rating in found] == [pytest.approx(v, abs=1e-4) for v in values]
        assert [rating.value for rating in found] == [next(iter(rating.values.values())) for rating in found]
        assert session.regress(query).value != found[0].value
        if name == "values":
            with pytest.raises(InputError, match="rerank needs a model with one value, and this one gives 3"):
                session.rerank(query, TEXTS)
            return
        ranked = session.rerank(query, TEXTS)
        order = sorted(range(3), key=lambda i: -values[i][0])
        assert [(r.index, r.text) for r in ranked] == [(i, TEXTS[i]) for i in order]
        assert [r.score for r in ranked] == pytest.approx([values[i][0] for i in order], abs=1e-4)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_entities_are_those_of_the_pipeline(
    aggregation: Any, target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path]
) -> None:
    tag = pipeline("token-classification", folder("tag"), "ForTokenClassification", aggregation_strategy=aggregation)
    texts = [*TEXTS, "Dogs, dogs riding  playing hats xyz men!", " the\tdoging girls"]
    with opened(bundle("tag"), target) as session:
        found = session.tag(texts, aggregation=aggregation)
        assert session.tag(texts[0], aggregation=aggregation) == session.tag(texts[:1], aggregation=aggregation)[0]
    assert any(found)
    for text, own in zip(texts, found, strict=True):
        theirs = tag(text)
        name = "entity" if aggregation == "none" else "entity_group"
        assert [(e.label, e.start, e.end) for e in own] == [(e[name], e["start"], e["end"]) for e in theirs]
        assert [e.score for e in own] == pytest.approx([float(e["score"]) for e in theirs], abs=1e-4)
        assert all(e.text == text[e.start : e.end] for e in own)


@torch.no_grad()
def naive_answers(folder: Path, question: str, text: str, longest: int, room: int, overlap: int) -> list[Any]:
    """Every span of every window, by loops over the library's own logits: score, start, end."""
    model, fast = library(folder, "BertForQuestionAnswering"), tokenizer()
    read = fast(
        question,
        text,
        max_length=room,
        stride=overlap,
        truncation="only_second",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    best: dict[tuple[int, int], float] = {}
    for w, ids in enumerate(read["input_ids"]):
        places = [i for i, s in enumerate(read.sequence_ids(w)) if s == 1]
        types = torch.tensor([read["token_type_ids"][w]])
        found = model(torch.tensor([ids]), token_type_ids=types)
        kept = [0, *places]
        start = found.start_logits[0, kept].double().softmax(0)[1:].tolist()
        end = found.end_logits[0, kept].double().softmax(0)[1:].tolist()
        for i, a in enumerate(places):
            for j, b in enumerate(places[i : i + longest], start=i):
                span = (read["offset_mapping"][w][a][0], read["offset_mapping"][w][b][1])
                best[span] = max(best.get(span, 0.0), start[i] * end[j])
    return sorted(((score, *span) for span, score in best.items()), reverse=True)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize(
    ("text", "longest", "overlap"), [(TEXTS[2], 30, 8), (LONG, 30, 8), (LONG, 2, 0), (LONG, 3, 20)]
)
def test_answers_are_the_best_spans_of_every_window(
    text: str, longest: int, overlap: int, target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path]
) -> None:
    question = "who is riding a bicycle ?"
    expected = naive_answers(folder("answer"), question, text, longest, 40, overlap)[:4]
    with opened(bundle("answer"), target) as session:
        found = session.answer(question, text, top=4, longest=longest, overlap=overlap)
        assert session.answer(question, text, longest=longest, overlap=overlap) == found[:1]
    assert [(a.start, a.end) for a in found] == [(start, end) for _, start, end in expected]
    assert [a.score for a in found] == pytest.approx([score for score, *_ in expected], abs=1e-4)
    assert all(a.text == text[a.start : a.end] for a in found)


@pytest.mark.parametrize("task", ["answer", "tag", "classify"])
def test_of_a_long_text_a_few_batches_are_held(
    task: str, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def recorded(engine: Any, model: Any, sources: list[Any], *others: Any) -> Any:
        held.append(len(sources))
        return encode_all(engine, model, sources, *others)

    text = " ".join([LONG] * 8)
    with opened(bundle(task)) as session:
        ask: dict[str, Callable[..., Any]] = {
            "answer": lambda size: session.answer("who is riding ?", text, top=3, batch_size=size),
            "tag": lambda size: session.tag(text, batch_size=size),
            "classify": lambda size: session.classify(text, overflow="windows", batch_size=size),
        }
        expected = ask[task](1000)
        monkeypatch.setattr("edgewise.runtime.reading.encode_all", recorded)
        assert approximately(ask[task](1)) == approximately(expected)
    assert len(held) > 2
    assert max(held) == 4


def approximately(found: Any) -> list[Any]:
    """Places and labels, and scores to three digits."""
    values = [vars(item) for item in (found if isinstance(found, list) else [found])]
    return [
        {k: round(v, 3) if isinstance(v, float) else v for k, v in d.items() if k != "probabilities"} for d in values
    ]


def test_counts_of_an_answer_are_checked_before_anything_is_read(bundle: Callable[[str], Path]) -> None:
    with opened(bundle("answer")) as session:
        with pytest.raises(InputError, match=r"longest \(0\) must be an integer of at least 1"):
            session.answer("a " * 60, "a man", longest=0)
        with pytest.raises(InputError, match=r"top \(0\) must be an integer of at least 1"):
            session.answer("a " * 60, "a man", top=0)


def test_a_long_text_is_tagged_in_windows(bundle: Callable[[str], Path]) -> None:
    """Every token as in the window where it stands farthest from an edge."""
    with opened(bundle("tag")) as session:
        tokens = session.tokenizer.encode_with_offsets(LONG)
        found = session.tag(LONG, aggregation="none", overlap=30)
        scores = np.zeros((len(tokens), 5))
        model = session.manifest.model
        for i in range(len(tokens)):  # windows of 38 tokens, 8 apart
            starts = [s for s in range(0, len(tokens) - 30 + 8, 8) if s <= i < s + 38]
            edges = {s: min(i - s, min(s + 38, len(tokens)) - 1 - i) for s in starts}
            first = max(starts, key=lambda s: (edges[s], -s))
            ids = np.array([model.source([t.id for t in tokens[first : first + 38]])])
            _, logits = session.engine.encode(ids, np.ones_like(ids, dtype=bool), None)
            row = np.exp(logits[0, i - first + 1].astype(np.float64))
            scores[i] = row / row.sum()
    names = model.class_names
    known = [(names[s.argmax()], t.start) for t, s in zip(tokens, scores, strict=True) if s.argmax() != 0]
    assert [(e.label, e.start) for e in found] == known
    assert [e.score for e in found] == pytest.approx([s.max() for s in scores if s.argmax() != 0], abs=1e-4)


def test_what_the_methods_refuse(bundle: Callable[[str], Path]) -> None:
    with opened(bundle("answer")) as session:
        with pytest.raises(
            ContextLengthError, match=r"question has 84 tokens, more than the 40 this model reads: shorten it$"
        ):
            session.answer(LONG, "a man")
        with pytest.raises(InputError, match=r"overlap \(30\) must be an integer from 0 to 29: a window has 30 tokens"):
            session.answer("a man is riding a bicycle ?", LONG, overlap=30)
        with pytest.raises(InputError, match=r"overlap \(-1\) must be an integer"):
            session.answer("who ?", LONG, overlap=-1)
        with pytest.raises(InputError, match="text has no tokens in this vocabulary: an answer is a piece of it"):
            session.answer("who ?", "\u200b")
        with pytest.raises(InputError, match="made for answer: call answer or encode"):
            session.tag("a man")
    with opened(bundle("tag")) as session, pytest.raises(InputError, match="aggregation is 'last', expected one of"):
        session.tag("a man", aggregation="last")  # type: ignore[call-overload]
    with opened(bundle("classify")) as session:
        with pytest.raises(InputError, match="there are 2 texts and 1 pairs: pass a second text for each"):
            session.classify(TEXTS[:2], pairs=TEXTS[:1])
        with pytest.raises(ContextLengthError, match="text 0 with its pair has 90 tokens, more than the 40"):
            session.classify(LONG, pairs=TEXTS[0])
        assert session.classify(LONG, pairs=TEXTS[0], overflow="truncate").truncated


def run(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["run", *words, "--target", "cpu", "--precision", "fp32", "--threads", "1"]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_command_line(bundle: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    with opened(bundle("classify")) as session:
        alone, pair = session.classify(TEXTS[0]), session.classify(TEXTS[0], pairs=TEXTS[1])
    lines = run(capsys, str(bundle("classify")), TEXTS[0], f"{TEXTS[0]}\t{TEXTS[1]}")
    assert lines == [f"{c.label}\t{c.probability:.4f}" for c in (alone, pair)]
    assert run(capsys, str(bundle("classify")), f"{TEXTS[0]}\t{TEXTS[1]}") == lines[1:]
    (value,) = run(capsys, str(bundle("regress")), f"{TEXTS[0]}\t{TEXTS[1]}")
    with opened(bundle("regress")) as session:
        assert float(value) == pytest.approx(session.rerank(TEXTS[0], TEXTS[1:2])[0].score, rel=1e-5)
    with opened(bundle("tag")) as session:
        tagged = " ".join(f"{e.text}/{e.label}" for e in session.tag(TEXTS[0]))
    assert run(capsys, str(bundle("tag")), TEXTS[0]) == [tagged]
    (line,) = run(capsys, str(bundle("answer")), f"who rides ?\t{TEXTS[0]}", "--json")
    with opened(bundle("answer")) as session:
        (answer,) = session.answer("who rides ?", TEXTS[0])
    found = json.loads(line)
    assert found["output"] == answer.text
    assert found["answers"][0]["start"] == answer.start
    assert main(["run", str(bundle("answer")), "no tab", "--target", "cpu", "--precision", "fp32"]) == 1
    assert "a line has 0 tabs, expected one: between a question and its text" in capsys.readouterr().err
    assert main(["run", str(bundle("classify")), "a\tb\tc", "--target", "cpu", "--precision", "fp32"]) == 1
    assert "a line has 2 tabs, expected one between two texts, or none" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["run", str(bundle("tag")), "a", "--overflow", "truncate", "--target", "cpu", "--precision", "fp32"])
    assert "--overflow truncate: a bundle made for tag reads longer texts whole" in capsys.readouterr().err
