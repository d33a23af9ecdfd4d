"""The recipes of the shipped checkpoints: sizes, schedules and data, one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .config import ModelConfig, StackConfig
from .data import read_labelled, read_lines
from .tasks import Classification, LanguageModel, MaskedWords, Task, Translation
from .tokenizer import END_ID, MASK_ID, PAD_ID, START_ID


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a recipe reads: text for the tokenizer, a task to train on, and one to choose on."""

    text: list[str]
    train: Task
    valid: Task


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a checkpoint is made.

    ``batch_tokens`` are padded tokens an update; the learning rate rises linearly to ``peak_rate`` over ``warmup``
    updates and falls with the inverse square root of the update (Vaswani et al. 2017, section 5.3, equation 3), or
    linearly, to nothing at the last update.
    Over the last ``cooldown`` updates the rate is also drawn linearly to nothing.
    ``smoothing`` is that of the labels (section 5.4): it helps the words of a translation and costs perplexity.
    ``embedding_scale`` shrinks the first random embeddings: of a rare word little else is ever learned. The weights are
    the mean of the last ``averaged`` snapshots, one every ``interval`` updates.
    """

    corpus: Callable[[Path], Corpus]
    encoder: StackConfig | None = None
    decoder: StackConfig | None = None
    vocab_size: int
    max_positions: int = 256
    classes: tuple[str, ...] = ()
    languages: tuple[str, str] | None = None
    updates: int
    batch_tokens: int
    peak_rate: float
    warmup: int
    decay: Literal["inverse square root", "linear"] = "inverse square root"
    cooldown: int = 0
    dropout: float
    smoothing: float = 0.1
    embedding_scale: float = 1.0
    bpe_dropout: float = 0.0
    averaged: int = 10
    interval: int = 250

    def config(self, vocab_size: int) -> ModelConfig:
        """The network, once the tokenizer's size is known."""
        return ModelConfig(
            vocab_size=vocab_size,
            max_positions=self.max_positions,
            pad_id=PAD_ID,
            start_id=START_ID,
            end_id=END_ID,
            encoder=self.encoder,
            decoder=self.decoder,
            head="classes" if self.classes else "vocabulary",
            mask_id=MASK_ID if self.decoder is None else None,
            class_names=self.classes,
        )


_LIMIT = 256


def _translation(folder: Path) -> Corpus:
    train, valid = ([read_lines(folder / f"{part}.{side}") for side in ("en", "de")] for part in ("train", "val"))
    return Corpus(
        text=train[0] + train[1],
        train=Translation(train[0], train[1], _LIMIT),
        valid=Translation(valid[0], valid[1], _LIMIT),
    )


def _captions(kind: type[LanguageModel]) -> Callable[[Path], Corpus]:
    def corpus(folder: Path) -> Corpus:
        train, valid = read_lines(folder / "train.en"), read_lines(folder / "val.en")
        return Corpus(text=train, train=kind(train, _LIMIT), valid=kind(valid, _LIMIT))

    return corpus


Labelled = tuple[list[str], list[int]]


def split_sentiment(folder: Path) -> tuple[Labelled, Labelled]:
    """Sentences and classes to train on, and every tenth, held back to choose on: the development part is the test."""
    text, labels = read_labelled(folder / "train.tsv")
    kept = [i for i in range(len(text)) if i % 10]
    return ([text[i] for i in kept], [labels[i] for i in kept]), (text[::10], labels[::10])


def _sentiment(folder: Path) -> Corpus:
    train, held = split_sentiment(folder)
    return Corpus(
        text=train[0],
        train=Classification(*train, _LIMIT, word_dropout=0.3),
        valid=Classification(*held, _LIMIT),
    )


_TINY = StackConfig(n_layers=4, d_model=128, n_heads=4, d_ff=256)

RECIPES: dict[str, Recipe] = {
    "translate-en-de": Recipe(
        corpus=_translation,
        languages=("en", "de"),
        encoder=_TINY,
        decoder=_TINY,
        vocab_size=8000,
        updates=9600,
        batch_tokens=2048,
        peak_rate=0.003,
        warmup=500,
        dropout=0.25,
        bpe_dropout=0.1,
        cooldown=2000,
        averaged=5,
    ),
    "captions-lm": Recipe(
        corpus=_captions(LanguageModel),
        decoder=_TINY,
        vocab_size=6000,
        updates=2750,
        batch_tokens=2048,
        peak_rate=0.003,
        warmup=400,
        dropout=0.2,
        smoothing=0.0,
        averaged=5,
    ),
    "captions-mlm": Recipe(
        corpus=_captions(MaskedWords),
        encoder=_TINY,
        vocab_size=6000,
        updates=3000,
        batch_tokens=2048,
        peak_rate=0.003,
        warmup=400,
        dropout=0.1,
        smoothing=0.0,
        averaged=5,
    ),
    "sentiment": Recipe(
        corpus=_sentiment,
        encoder=StackConfig(n_layers=2, d_model=64, n_heads=4, d_ff=128),
        vocab_size=6000,
        classes=("negative", "positive"),
        updates=1000,
        batch_tokens=1024,
        peak_rate=0.002,
        warmup=100,
        decay="linear",
        dropout=0.4,
        embedding_scale=0.1,
        bpe_dropout=0.1,
        averaged=5,
        interval=75,
    ),
}
