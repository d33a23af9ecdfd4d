"""Training: batches, the learning rate, averaging, and that a resumed run is the run that was never stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgewise.errors import CheckpointError, InputError
from edgewise.models.checkpoint import TOKENIZER, load_checkpoint
from edgewise.models.config import StackConfig
from edgewise.models.data import Batches, pad, read_labelled, read_lines, rounded
from edgewise.models.recipes import RECIPES, Corpus, Recipe
from edgewise.models.state import Average
from edgewise.models.tasks import Classification, LanguageModel, MaskedWords, Translation
from edgewise.models.tokenizer import END_ID, MASK_ID, PAD_ID, START_ID, train_bpe
from edgewise.models.train import Run, learning_rate
from edgewise.models.transformer import Transformer

WORDS = ["a man", "two dogs", "the girl", "rides", "runs over", "a bike", "the grass", "red", "fast", "!"]
_rng = np.random.default_rng(0)
TEXT = [" ".join(_rng.choice(WORDS, _rng.integers(1, 6))) for _ in range(60)]
STACK = StackConfig(n_layers=1, d_model=16, n_heads=2, d_ff=24)


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [1, 40, 256, 10_000])
def test_batches_hold_each_sentence_once_within_the_bound(max_tokens: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 30, 200).tolist()
    batches = list(Batches(lengths, max_tokens).epoch(3))
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    for batch in batches:
        padded = len(batch) * rounded(max(lengths[i] for i in batch))
        assert padded <= max_tokens or len(batch) == 1


def test_an_epoch_depends_on_its_seed_alone() -> None:
    batches = Batches([3, 1, 4, 1, 5, 9, 2, 6] * 9, 30)
    assert list(batches.epoch(1)) == list(batches.epoch(1))
    assert list(batches.epoch(1)) != list(batches.epoch(2))


def test_rows_are_padded_on_the_right_to_a_multiple_of_four() -> None:
    assert pad([[5, 6], [7, 8, 9, 4, 3]], 0).tolist() == [[5, 6, 0, 0, 0, 0, 0, 0], [7, 8, 9, 4, 3, 0, 0, 0]]


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one \ntwo\u2028still two\n\n", encoding="utf-8")
    assert read_lines(tmp_path / "a") == ["one", "two\u2028still two", ""]


def test_labelled_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("good\tfilm\t1\nbad\t0\n")
    assert read_labelled(tmp_path / "a") == (["good\tfilm", "bad"], [1, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a text file with a sentence a line, found none: check --data"),
        (b"good\t1\n\xff\t0\n", "expected UTF-8, byte 7 is not: convert the file"),
        (b"good\t1\nbad\n", "line 2: expected a sentence, a tab and a class number, got 'bad'"),
    ],
)
def test_data_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_labelled(tmp_path / "a")


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_masked_words_are_chosen_and_hidden_as_in_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_bpe(TEXT, 300)
    task = MaskedWords(TEXT, 64)
    task.tokenize(tokenizer)
    model = Transformer(_recipe("words").config(tokenizer.get_vocab_size())).eval()
    seen, real = [], Transformer.encode
    monkeypatch.setattr(Transformer, "encode", lambda self, ids, mask: seen.append(ids) or real(self, ids, mask))
    rng, labels = np.random.default_rng(0), 0
    kept = masked = total = 0
    for _ in range(20):
        states, wanted = task.states(model, list(range(60)), rng)
        ids = pad([[*row, END_ID] for row in task.ids], PAD_ID)
        labels, total = labels + len(wanted), total + sum(map(len, task.ids))
        masked += int((seen[-1] == MASK_ID).sum())
        kept += len(wanted) - int((seen[-1] != ids).sum())
        assert states.shape == (len(wanted), 16)
        assert torch.equal(seen[-1] == PAD_ID, ids == PAD_ID)
    assert labels / total == pytest.approx(0.15, abs=0.01)
    assert masked / labels == pytest.approx(0.8, abs=0.03)
    assert kept / labels == pytest.approx(0.1, abs=0.03)


def test_word_dropout_is_for_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_bpe(TEXT, 300)
    task = Classification(TEXT, [0, 1] * 30, 64, word_dropout=0.5)
    task.tokenize(tokenizer)
    model = Transformer(_recipe("classes").config(tokenizer.get_vocab_size()))
    seen, real = [], Transformer.encode
    monkeypatch.setattr(Transformer, "encode", lambda self, ids, mask: seen.append(ids) or real(self, ids, mask))
    for training in (True, False):
        task.states(model.train(training), [0, 1, 2], np.random.default_rng(0))
    assert MASK_ID in seen[0]
    assert MASK_ID not in seen[1]


def test_the_language_model_predicts_the_next_token_and_the_end() -> None:
    task = LanguageModel(TEXT, 64)
    task.tokenize(train_bpe(TEXT, 300))
    _, labels = task.states(Transformer(_recipe("text").config(300)).eval(), [0, 1], np.random.default_rng(0))
    assert labels.tolist() == [*task.ids[0], END_ID, *task.ids[1], END_ID]
    assert START_ID not in labels


# --- schedule and averages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "rate"), [(1, 0.00001), (50, 0.0005), (100, 0.001), (400, 0.0005), (10_000, 0.0001)])
def test_learning_rate(step: int, rate: float) -> None:
    """Peak 0.001 at update 100: a hundredth of it each update before, then ``0.001 * sqrt(100 / step)``."""
    recipe = replace(RECIPES["captions-lm"], peak_rate=0.001, warmup=100)
    assert learning_rate(recipe, step) == pytest.approx(rate)


@pytest.mark.parametrize(("step", "rate"), [(50, 0.0005), (100, 0.001), (325, 0.00075), (1000, 0.0), (1001, 0.0)])
def test_learning_rate_with_linear_decay(step: int, rate: float) -> None:
    """Peak 0.001 at update 100, nothing at update 1000, three quarters of it a quarter of the way."""
    recipe = replace(RECIPES["captions-lm"], peak_rate=0.001, warmup=100, updates=1000, decay="linear")
    assert learning_rate(recipe, step) == pytest.approx(rate)


@pytest.mark.parametrize(("step", "rate"), [(400, 0.0005), (800, 0.001 / 8**0.5), (900, 0.001 / 6), (1000, 0.0)])
def test_learning_rate_with_a_cooldown(step: int, rate: float) -> None:
    """Untouched until 200 updates before the end; half of ``0.001 * sqrt(100 / 900)`` at 900."""
    recipe = replace(RECIPES["captions-lm"], peak_rate=0.001, warmup=100, updates=1000, cooldown=200)
    assert learning_rate(recipe, step) == pytest.approx(rate)


def test_the_average_is_that_of_the_last_snapshots(tmp_path: Path) -> None:
    model = Transformer(_recipe("text").config(20))
    average = Average(tmp_path, 2)
    for step, value in ((10, 100.0), (20, 1.0), (30, 2.0), (40, 6.0)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        average.add(model, step)
    assert {t.flatten()[0].item() for t in average.weights().values()} == {4.0}
    average.rewind(30)  # the run goes on from update 35
    assert {t.flatten()[0].item() for t in average.weights().values()} == {1.5}
    average.prune()
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "snapshot-0000020.safetensors",
        "snapshot-0000030.safetensors",
    ]


# --- a run ------------------------------------------------------------------------------------------------------------


def _corpus(kind: str) -> Callable[[Path], Corpus]:
    def corpus(_: Path) -> Corpus:
        if kind == "translation":
            return Corpus(text=TEXT, train=Translation(TEXT, TEXT[::-1], 64), valid=Translation(TEXT[:9], TEXT[:9], 64))
        if kind == "classes":
            labels = [i % 2 for i in range(60)]
            train, valid = Classification(TEXT, labels, 64, word_dropout=0.2), Classification(TEXT[:9], labels[:9], 64)
            return Corpus(text=TEXT, train=train, valid=valid)
        task = LanguageModel if kind == "text" else MaskedWords
        return Corpus(text=TEXT, train=task(TEXT, 64), valid=task(TEXT[:9], 64))

    return corpus


def _recipe(kind: str) -> Recipe:
    return Recipe(
        corpus=_corpus(kind),
        encoder=None if kind == "text" else STACK,
        decoder=STACK if kind in ("text", "translation") else None,
        classes=("bad", "good") if kind == "classes" else (),
        vocab_size=300,
        max_positions=64,
        updates=24,
        batch_tokens=128,
        peak_rate=0.01,
        warmup=5,
        dropout=0.2,
        bpe_dropout=0.1 if kind == "translation" else 0.0,
        averaged=3,
        interval=3,
    )


def _run(recipe: Recipe, out: Path, start: Path | None = None) -> Run:
    torch.manual_seed(0)
    return Run("tiny", recipe, out, out, start, low=False)


@pytest.mark.parametrize("kind", ["translation", "text", "words", "classes"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    recipe = _recipe(kind)
    if kind == "translation":
        recipe = replace(recipe, bpe_dropout=0.0)  # the library's own random numbers cannot be seeded
    _run(recipe, tmp_path / "whole").train()
    stopped = _run(recipe, tmp_path / "parts")
    stopped.corpus.valid.tokenize(stopped.tokenizer)
    with pytest.raises(KeyboardInterrupt):
        _interrupted(stopped)
    assert 0 < _run(recipe, tmp_path / "parts").step < 24
    torch.manual_seed(99)
    _run(recipe, tmp_path / "parts").train()
    for name in ("model.safetensors", "run/state.safetensors"):
        whole, parts = (load_file(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name
    assert (
        load_checkpoint(tmp_path / "whole").training["curve"] == load_checkpoint(tmp_path / "parts").training["curve"]
    )


def _interrupted(run: Run) -> None:
    """Stop in the middle of the second epoch at the earliest, snapshots later than the state already written."""
    update, stop_after = run._update, 16

    def counted(*arguments: object) -> float:
        if run.step == stop_after:
            raise KeyboardInterrupt
        return update(*arguments)  # type: ignore[arg-type]

    run._update = counted  # type: ignore[method-assign]
    run.train()


def test_a_run_learns_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    run = _run(replace(_recipe("text"), updates=60, interval=20), tmp_path)
    run.train()
    losses = [row["valid_loss"] for row in run.curve]
    assert losses[-1] < losses[0]
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.training["updates"] == 60
    assert checkpoint.training["curve"] == run.curve
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / TOKENIZER).is_file()


def test_translation_quality_is_part_of_the_curve(tmp_path: Path) -> None:
    run = _run(_recipe("translation"), tmp_path)
    run.train()
    assert [("valid_bleu" in row) for row in run.curve] == [False, False, False, True] * 2


def test_a_run_can_begin_with_the_weights_of_another(tmp_path: Path) -> None:
    """The encoder and tokenizer of a masked model; the classifier is new."""
    _run(replace(_recipe("words"), updates=3), tmp_path / "words").train()
    words = load_checkpoint(tmp_path / "words").model.state_dict()
    run = _run(_recipe("classes"), tmp_path / "classes", start=tmp_path / "words")
    own = run.model.state_dict()
    assert {name for name in own if name not in words} == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(words[name], own[name]) for name in own if name in words)
    run.train()
    assert load_checkpoint(tmp_path / "classes").training["begun_with"] == "words"
    assert _run(_recipe("classes"), tmp_path / "classes").begun_with == "words"
    assert (tmp_path / "classes" / TOKENIZER).read_bytes() == (tmp_path / "words" / TOKENIZER).read_bytes()


def test_the_weights_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    _run(replace(_recipe("words"), updates=3), tmp_path / "words").train()
    _run(replace(_recipe("classes"), vocab_size=290), tmp_path / "classes")
    with pytest.raises(CheckpointError, match=r"is not the tokenizer of .*words: give another --out, or no --init"):
        _run(_recipe("classes"), tmp_path / "classes", start=tmp_path / "words")


@pytest.mark.parametrize("damage", ["no state", "another network"])
def test_a_state_that_does_not_fit(tmp_path: Path, damage: str) -> None:
    _run(replace(_recipe("text"), updates=3), tmp_path).train()
    if damage == "no state":
        (tmp_path / "run/state.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    recipe = replace(_recipe("text"), decoder=replace(STACK, d_ff=32 if damage == "another network" else 24))
    with pytest.raises(
        CheckpointError, match=r"expected the training state of this recipe .*: remove it to begin anew"
    ):
        _run(recipe, tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_are_whole(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.config(recipe.vocab_size).vocab_size == recipe.vocab_size
    assert recipe.averaged * recipe.interval <= recipe.updates
