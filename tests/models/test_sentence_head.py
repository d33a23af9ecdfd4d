"""Classes on top of a sentence encoder: against scikit-learn on the same states, and from folder to session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import edgewise
from edgewise.errors import ConfigError, InputError
from edgewise.models.open import open_checkpoint
from edgewise.models.sentence_head import (
    PENALTIES,
    accuracy,
    chosen_penalty,
    classifier_of,
    fitted,
    main,
    states_of,
    train,
)
from edgewise.pipeline import export_bundle

from ..families.encoders import bert_head
from ..families.folders import WORDS, bert_folder

POSITIVE, NEGATIVE = WORDS[:8], WORDS[8:16]


def sentences(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Made of words of one kind or of the other, and now and then of both."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).tolist()
    return [" ".join(rng.choice((NEGATIVE, POSITIVE)[n], rng.integers(2, 9))) for n in labels], labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("encoder") / "tiny", pooling="mean", seed=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    for seed, (part, count) in enumerate((("train", 200), ("dev", 60))):
        rows = zip(*sentences(count, seed), strict=True)
        (place / f"{part}.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    return place


@pytest.mark.parametrize("penalty", PENALTIES[::2])
def test_the_fit_is_scikit_learns(penalty: float) -> None:
    rng = np.random.default_rng(0)
    states = rng.standard_normal((300, 6)).astype(np.float32)
    labels = (states @ rng.standard_normal((6, 3)) + rng.standard_normal((300, 3))).argmax(1)
    head = fitted(torch.from_numpy(states), torch.from_numpy(labels), 3, penalty)
    # Its objective is ours times C * 300: half the squares, and C times the sum of the losses.
    other = LogisticRegression(C=1 / (2 * penalty * 300), tol=1e-8, max_iter=5000).fit(states, labels)
    weights = head.weight.detach().numpy()
    np.testing.assert_allclose(weights - weights.mean(0), other.coef_ - other.coef_.mean(0), atol=2e-3)
    right = accuracy(head, torch.from_numpy(states), torch.from_numpy(labels))
    assert right == pytest.approx(100 * other.score(states, labels), abs=0.7)


def test_the_penalty_is_chosen_on_what_was_held_back() -> None:
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(100, 60, generator=generator)
    noise = torch.randint(0, 2, (100,), generator=generator)
    held = torch.arange(100) % 10 == 0
    scores = [accuracy(fitted(states[~held], noise[~held], 2, p), states[held], noise[held]) for p in PENALTIES]
    assert chosen_penalty(states, noise, 2) == max(zip(scores, PENALTIES, strict=True))[1]


def test_states_are_those_before_normalization(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    model = classifier_of(checkpoint, ["no", "yes"])
    texts = [" ".join(WORDS[:5]), "dogs", " ".join(WORDS[:16] * 3)]
    found = states_of(model, checkpoint, texts)
    for text, state in zip(texts, found, strict=True):
        ids = torch.tensor([[2, *(WORDS.index(word) + 5 for word in text.split()[:28]), 3]])
        with torch.no_grad():
            expected = checkpoint.model.encode(ids, torch.ones_like(ids, dtype=torch.bool))[0].mean(0)
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_from_a_folder_to_a_session(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--model", str(folder), "--data", str(data), "--out", str(tmp_path / "made"), "--names", "no", "yes"])
    checkpoint = open_checkpoint(tmp_path / "made")
    score = checkpoint.training["scores"]["dev_accuracy"]
    assert score > 60  # a random encoder keeps only some of the words
    assert f"{score:.1f} % of the development part right" in capsys.readouterr().out
    export_bundle(tmp_path / "made", tmp_path / "bundle", ("cpu",), ("fp32",), None, 0.3, lambda *_: None)
    rows = [line.split("\t") for line in (data / "dev.tsv").read_text().splitlines()]
    with edgewise.load(tmp_path / "bundle", "cpu", "fp32", 1) as session:
        assert session.verify().ok
        found = session.classify([text for text, _ in rows])
    right = [c.label == ("no", "yes")[int(label)] for c, (_, label) in zip(found, rows, strict=True)]
    assert 100 * sum(right) / len(right) == pytest.approx(score, abs=1.7)  # one of 60, for the weights are float16


def test_what_cannot_be_trained(folder: Path, data: Path, tmp_path: Path) -> None:
    for part in ("train", "dev"):
        (tmp_path / f"{part}.tsv").write_text("a man\t0\ntwo dogs\t2\n")
    with pytest.raises(InputError, match="has the class number 2, expected less than 2: name every class"):
        train(folder, tmp_path, tmp_path / "made", ["no", "yes"])
    words = bert_head(tmp_path / "words", "ForMaskedLM")
    with pytest.raises(ConfigError, match="has a 'vocabulary' head, expected 'embedding': a sentence encoder"):
        train(words, data, tmp_path / "made", ["no", "yes"])
