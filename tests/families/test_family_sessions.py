"""Sessions of the encoders whose tokenizers are not BERT's, beside the pipelines of ``transformers``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from tokenizers import Tokenizer

import edgewise

from ..bundles import export_few
from .encoders import (
    CLASSES,
    TAGS,
    byte_level,
    distilbert_head,
    library,
    library_fast,
    roberta_head,
    unigram,
    xlm_roberta_head,
)
from .folders import wordpiece

pytestmark = pytest.mark.slow
HEADS: dict[str, dict[str, Any]] = {
    "ForMaskedLM": {},
    "ForSequenceClassification": CLASSES,
    "ForTokenClassification": TAGS,
    "ForQuestionAnswering": {},
}
TEXTS = ["a man is riding a bicycle .", "Dogs play, in the snow!", "Zwei  Hunde – on the Straße?", "日本語 a man"]


class Family(NamedTuple):
    make: Callable[..., Path]
    prefix: str
    tokenizer: Callable[[], Tokenizer]


FAMILIES = {
    "distilbert": Family(distilbert_head, "DistilBert", wordpiece),
    "roberta": Family(roberta_head, "Roberta", byte_level),
    "xlm-r": Family(xlm_roberta_head, "XLMRoberta", unigram),
}
family = pytest.mark.parametrize("family", FAMILIES)
Made = Callable[[str, str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """``made(family, head)``: the library's folder, and a bundle for the cpu in fp32 and int8."""

    @cache
    def bundle(name: str, head: str) -> tuple[Path, Path]:
        base = tmp_path_factory.mktemp("family")
        fields = {**HEADS[head], "max_position_embeddings": 66}
        folder = FAMILIES[name].make(base / "folder", head, len(name), **fields)
        export_few(folder, base / "b", targets=("cpu",))
        return folder, base / "b"

    return bundle


def fast(name: str) -> Any:
    marks = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]") if name == "distilbert" else ()
    names = ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")
    marks = marks or ("<unk>", "<s>", "</s>", "<pad>", transformers.AddedToken("<mask>", lstrip=True))
    tokenizer = library_fast(FAMILIES[name].tokenizer(), **dict(zip(names, marks, strict=True)))
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def pipeline(task: str, name: str, folder: Path, head: str, **arguments: Any) -> Any:
    model = library(folder, f"{FAMILIES[name].prefix}{head}")
    return transformers.pipeline(task, model=model, tokenizer=fast(name), device="cpu", **arguments)


@pytest.mark.parametrize("head", HEADS)
@family
def test_both_precisions_replay_the_reference(family: str, head: str, made: Made) -> None:
    for precision in ("fp32", "int8"):
        with edgewise.load(made(family, head)[1], "cpu", precision, 1) as session:
            report = session.verify()
        assert report.ok, report.table()


@family
def test_masked_words_are_those_of_the_pipeline(family: str, made: Made) -> None:
    folder, bundle = made(family, "ForMaskedLM")
    fill = pipeline("fill-mask", family, folder, "ForMaskedLM", top_k=400 if family != "distilbert" else 30)
    mask = fill.tokenizer.mask_token
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        special, known = session.tokenizer.special_ids, session.tokenizer.vocab_size
        for text in ("a man is <mask> .", "<mask> dogs play", "the girl,<mask>", "hat<mask>s schön"):
            filled = fill(text.replace("<mask>", mask))
            expected = [f for f in filled if f["token"] not in special and f["token"] < known][:5]
            found = {f.token: f for f in session.fill_mask(text, top=400)}
            assert expected
            for theirs in expected:
                own = found[theirs["token"]]
                assert own.probability == pytest.approx(theirs["score"], abs=1e-4)
                assert own.text == theirs["sequence"]


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average"])
@family
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")
def test_entities_are_those_of_the_pipeline(family: str, aggregation: Any, made: Made) -> None:
    folder, bundle = made(family, "ForTokenClassification")
    head = "ForTokenClassification"
    tag = pipeline("token-classification", family, folder, head, aggregation_strategy=aggregation)
    name = "entity" if aggregation == "none" else "entity_group"
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        for text in TEXTS:
            own, theirs = session.tag(text, aggregation=aggregation), tag(text)
            assert [(e.label, e.text) for e in own] == [(e[name], text[e["start"] : e["end"]].strip()) for e in theirs]
            assert [e.score for e in own] == pytest.approx([float(e["score"]) for e in theirs], abs=1e-4)


@family
def test_pairs_are_those_of_the_pipeline(family: str, made: Made) -> None:
    folder, bundle = made(family, "ForSequenceClassification")
    classify = pipeline("text-classification", family, folder, "ForSequenceClassification", top_k=None)
    seconds = [*TEXTS[1:], TEXTS[0]]
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        found = [*session.classify(TEXTS), *session.classify(TEXTS, pairs=seconds)]
    asked = [{"text": text} for text in TEXTS]
    asked += [{"text": text, "text_pair": pair} for text, pair in zip(TEXTS, seconds, strict=True)]
    for own, given in zip(found, asked, strict=True):
        known = {row["label"]: row["score"] for row in classify([given])[0]}
        assert own.probabilities == pytest.approx(known, abs=1e-4)


@family
@torch.no_grad()
def test_answers_are_the_best_spans(family: str, made: Made) -> None:
    folder, bundle = made(family, "ForQuestionAnswering")
    model, tokenizer = library(folder, f"{FAMILIES[family].prefix}ForQuestionAnswering"), fast(family)
    question, text = "who plays?", TEXTS[1]
    read = tokenizer(question, text, return_offsets_mapping=True)
    found = model(torch.tensor([read["input_ids"]]))
    places = [i for i, s in enumerate(read.sequence_ids(0)) if s == 1]
    start, end = (
        logits[0, [0, *places]].double().softmax(0)[1:].tolist() for logits in (found.start_logits, found.end_logits)
    )
    spans = [(start[i] * end[j], i, j) for i in range(len(places)) for j in range(i, min(len(places), i + 30))]
    score, first, last = max(spans)
    offsets = [read["offset_mapping"][i] for i in places]
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        (own,) = session.answer(question, text)
    assert own.text == text[offsets[first][0] : offsets[last][1]].strip()
    assert own.score == pytest.approx(score, abs=1e-4)
