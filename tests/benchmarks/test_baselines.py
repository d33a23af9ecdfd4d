"""Baselines and the models beside them, on small corpora written here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from edgewise.benchmarks.bag_of_words import choose_bag_of_words
from edgewise.benchmarks.baselines import Measured, bootstrap_interval, language_model, main, masked_words, sentiment
from edgewise.models.checkpoint import TOKENIZER, TRAINING, Checkpoint, current_scores, load_checkpoint, save_weights
from edgewise.models.tasks import LanguageModel
from edgewise.models.tokenizer import START_ID, train_bpe

from ..tiny import tiny_model

CAPTIONS = ["a man rides a bike", "two dogs run", "a girl runs over the grass", "the man and the dogs run"]
REVIEWS = [("good and fine film", 1), ("bad and dull film", 0), ("not good", 0), ("a fine film", 1), ("so dull", 0)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for part, lines in (("train", CAPTIONS * 6), ("val", CAPTIONS[:3]), ("test_2016_flickr", CAPTIONS[2:])):
        (folder / f"{part}.en").write_text("\n".join(lines) + "\n")
    for part, rows in (("train", REVIEWS * 8), ("dev", REVIEWS)):
        (folder / f"{part}.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    return folder


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for name, architecture, classes in (
        ("captions-lm", "decoder", ()),
        ("captions-mlm", "encoder", ()),
        ("sentiment", "encoder", ("bad", "good")),
    ):
        folder = tmp_path / name
        tokenizer = train_bpe([*CAPTIONS, *(text for text, _ in REVIEWS)], 300)
        save_weights(tiny_model(1, architecture, vocab_size=300, class_names=classes), folder)  # type: ignore[arg-type]
        tokenizer.save(str(folder / TOKENIZER))
        (folder / TRAINING).write_text(json.dumps({"recipe": name}))
    return tmp_path


def _checkpoint(checkpoints: Path, name: str) -> Checkpoint:
    return load_checkpoint(checkpoints / name)


def test_perplexity_is_that_of_the_model_alone_on_each_sentence(checkpoints: Path, data: Path) -> None:
    checkpoint = _checkpoint(checkpoints, "captions-lm")
    task, nats, tokens = LanguageModel(CAPTIONS[:3], 64), 0.0, 0
    Measured(checkpoint, task)
    for ids in task.ids:
        seen = torch.tensor([[START_ID, *ids]])
        log_probs = checkpoint.model.logits(checkpoint.model(torch.empty(0, 0), seen))[0].log_softmax(-1)
        labels = torch.tensor([*ids, checkpoint.model.config.end_id])
        nats -= log_probs[torch.arange(len(labels)), labels].sum().item()
        tokens += len(labels)
    ours, trigram = language_model(checkpoint, data)["rows"][:2]
    assert ours["perplexity, token"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    words = sum(len(line.split()) + 1 for line in CAPTIONS[:3])
    assert ours["perplexity, word"] == pytest.approx(math.exp(nats / words), rel=1e-4)
    assert trigram["perplexity, token"] < ours["perplexity, token"], "a fitted trigram beats random weights"


def test_masked_positions_are_the_same_for_both(checkpoints: Path, data: Path) -> None:
    first, again = (masked_words(_checkpoint(checkpoints, "captions-mlm"), data) for _ in range(2))
    assert first == again
    rows = {(row["data"], row["system"]): row for row in first["rows"]}
    assert rows["val", "token frequencies"]["nats"] < rows["val", "this model"]["nats"]


def test_a_bag_of_words_learns_single_words() -> None:
    train = ["good film", "fine film", "bad film", "dull film"] * 5, [1, 1, 0, 0] * 5
    name, predict = choose_bag_of_words(train, (["so good", "so dull"], [1, 0]))
    assert name.startswith("logistic regression, counts of words, C=")
    assert predict(["fine", "bad", "good"]).tolist() == [1, 0, 1]


def test_word_pairs_are_taken_where_they_help() -> None:
    text = ["good", "not good", "bad", "not bad"] * 10
    name, predict = choose_bag_of_words((text, [1, 0, 0, 1] * 10), (text, [1, 0, 0, 1] * 10))
    assert "word pairs" in name
    assert predict(["not good", "not bad"]).tolist() == [0, 1]


def test_accuracy_is_counted_by_sentence(checkpoints: Path, data: Path) -> None:
    scores = sentiment(_checkpoint(checkpoints, "sentiment"), data)
    assert [row["data"] for row in scores["rows"]] == ["held-out tenth of train"] * 2 + ["dev (test)"] * 2
    assert scores["rows"][3]["accuracy, %"] == 100.0  # the development part repeats the training part here
    assert "paired bootstrap" in scores["notes"][0]


def test_bootstrap_interval() -> None:
    """Of a mean of 0.1 over 1000 sentences whose differences have a deviation of 0.3: 10 +- 1.96 * 0.95 points."""
    low, high = bootstrap_interval(np.repeat([1.0, 0.0], [100, 900]))
    assert low == pytest.approx(10 - 1.86, abs=0.2)
    assert high == pytest.approx(10 + 1.86, abs=0.2)


def test_the_command(checkpoints: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--multi30k", str(data), "--sst2", str(data), "--checkpoints", str(checkpoints)])
    shown = capsys.readouterr().out
    for name in ("captions-lm", "captions-mlm", "sentiment"):
        assert current_scores(checkpoints / name)["rows"]
        assert f"{name}\ndata " in shown


def test_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "give --multi30k DIR, --sst2 DIR, or both" in capsys.readouterr().err
