"""What the small models are worth: ``python -m edgewise.benchmarks.baselines --multi30k DIR --sst2 DIR``.

Each is measured beside a plain baseline fitted to the same training part and judged on the same test part: the language
model beside a Kneser-Ney trigram over the same tokens, the masked model beside the frequencies of tokens, the
classifier beside a bag of words. What a baseline has to choose is chosen where the model was chosen. Needs the ``dev``
extra. The scores go into each checkpoint's ``training.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewise.benchmarks.bag_of_words import choose_bag_of_words
from edgewise.benchmarks.kneser_ney import KneserNeyTrigram

if TYPE_CHECKING:
    from edgewise.models.checkpoint import Checkpoint
    from edgewise.models.tasks import LanguageModel

Rows = list[dict[str, Any]]
CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
CAPTIONS = ("val", "test_2016_flickr")
RESAMPLES = 10_000


class Measured:
    """A checkpoint run over a task once: the log-probabilities ``(M, classes or V)`` of every label, in float32."""

    def __init__(self, checkpoint: Checkpoint, task: LanguageModel) -> None:
        import torch

        from edgewise.models.data import Batches

        tokenize(checkpoint, task)
        rng, model = np.random.default_rng(0), checkpoint.model
        self.labels: NDArray[np.int64] = np.zeros(0, np.int64)
        self.nats: NDArray[np.float64] = np.zeros(0)
        self.right: NDArray[np.bool_] = np.zeros(0, np.bool_)
        with torch.inference_mode():
            for batch in Batches(task.lengths(), 4096).epoch(0):
                states, labels = task.states(model, batch, rng)
                log_probs = (states if model.classifier else model.logits(states)).log_softmax(1)
                self.nats = np.append(self.nats, -log_probs.gather(1, labels[:, None])[:, 0].double().numpy())
                self.right = np.append(self.right, (log_probs.argmax(1) == labels).numpy())
                self.labels = np.append(self.labels, labels.numpy())


def tokenize(checkpoint: Checkpoint, task: LanguageModel) -> LanguageModel:
    """``task``, read with the checkpoint's tokenizer."""
    from tokenizers import Tokenizer

    from edgewise.models.tokenizer import as_text_only

    task.tokenize(as_text_only(Tokenizer.from_file(str(checkpoint.tokenizer_file))))
    return task


def language_model(checkpoint: Checkpoint, data: Path) -> dict[str, Any]:
    """Perplexity a token and a word, each sentence's end counted as one."""
    from edgewise.models.data import read_lines
    from edgewise.models.tasks import LanguageModel

    config, rows = checkpoint.model.config, Rows()
    train = tokenize(checkpoint, LanguageModel(read_lines(data / "train.en"), config.max_positions))
    trigram = KneserNeyTrigram(train.ids, config.vocab_size, config.start_id, config.end_id)
    for part in CAPTIONS:
        lines = read_lines(data / f"{part}.en")
        task = LanguageModel(lines, config.max_positions)
        ours = Measured(checkpoint, task).nats
        words = sum(len(line.split()) + 1 for line in lines)
        for system, nats in (("this model", ours), ("modified Kneser-Ney trigram", -trigram.log_probs(task.ids))):
            perplexities = {"perplexity, token": nats.mean(), "perplexity, word": nats.sum() / words}
            rows.append({"data": part, "system": system, **{k: _round(np.exp(v)) for k, v in perplexities.items()}})
    return {"rows": rows, "notes": ["The end of a sentence counts as a token and as a word."]}


def masked_words(checkpoint: Checkpoint, data: Path) -> dict[str, Any]:
    """Accuracy and loss at the same masked positions, chosen at random by a fixed seed."""
    from edgewise.models.data import read_lines
    from edgewise.models.tasks import MaskedWords

    config, rows = checkpoint.model.config, Rows()
    train = tokenize(checkpoint, MaskedWords(read_lines(data / "train.en"), config.max_positions))
    counts = 1.0 + np.bincount(np.concatenate([np.array(ids) for ids in train.ids]), minlength=config.vocab_size)
    log_probs = np.log(counts / counts.sum())
    for part in CAPTIONS:
        ours = Measured(checkpoint, MaskedWords(read_lines(data / f"{part}.en"), config.max_positions))
        often = ours.labels == int(counts.argmax())
        for system, right, nats in (
            ("this model", ours.right, ours.nats),
            ("token frequencies", often, -log_probs[ours.labels]),
        ):
            rows.append({"data": part, "system": system, "accuracy, %": _percent(right), "nats": _round(nats.mean())})
    note = "15 % of the tokens are predicted: 80 % of them masked, 10 % replaced by a random token, 10 % as they were."
    return {"rows": rows, "notes": [note]}


def sentiment(checkpoint: Checkpoint, data: Path) -> dict[str, Any]:
    """Accuracy on the sentences it was chosen on and on the development part, which is the test here."""
    from edgewise.models.data import read_labelled
    from edgewise.models.recipes import split_sentiment
    from edgewise.models.tasks import Classification

    train, held = split_sentiment(data)
    parts = {"held-out tenth of train": held, "dev (test)": read_labelled(data / "dev.tsv")}
    name, predict = choose_bag_of_words(train, held)
    rows, note = Rows(), ""
    for part, (text, labels) in parts.items():
        ours = _predictions(checkpoint, Classification(text, labels, checkpoint.model.config.max_positions))
        theirs = predict(text) == np.array(labels)
        rows.append({"data": part, "system": "this model", "accuracy, %": _percent(ours)})
        rows.append({"data": part, "system": name, "accuracy, %": _percent(theirs)})
        low, high = bootstrap_interval(ours.astype(float) - theirs)
        verdict = "better than" if low > 0 else "worse than" if high < 0 else "no better and no worse than"
        note = f"{part}: measurably {verdict} the baseline ({low:+.1f} to {high:+.1f} points, 95 %, paired bootstrap)."
    return {"rows": rows, "notes": [note]}


def _predictions(checkpoint: Checkpoint, task: LanguageModel) -> NDArray[np.bool_]:
    """Whether each sentence is classified right, in the order of the text."""
    from edgewise.models.data import Batches

    measured = Measured(checkpoint, task)
    order = [i for batch in Batches(task.lengths(), 4096).epoch(0) for i in batch]
    right = np.empty(len(order), np.bool_)
    right[order] = measured.right
    return right


def bootstrap_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean difference, in percent, from resampled sentences."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.percentile(100.0 * differences[rows].mean(1), [2.5, 97.5])
    return float(low), float(high)


def _round(value: float) -> float:
    return round(float(value), 3)


def _percent(right: NDArray[np.bool_]) -> float:
    return round(100.0 * float(right.mean()), 2)


def table(rows: Rows) -> str:
    """Rows as aligned columns."""
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m edgewise.benchmarks.baselines", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--multi30k", type=Path, help="folder of Multi30k: measures the two caption models")
    parser.add_argument("--sst2", type=Path, help="folder of the sentiment sentences: measures the classifier")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder of the checkpoints")
    options = parser.parse_args(arguments)
    if not options.multi30k and not options.sst2:
        parser.error("nothing to measure: give --multi30k DIR, --sst2 DIR, or both")
    from edgewise.models.checkpoint import load_checkpoint, write_scores

    for name, measure, data in (
        ("captions-lm", language_model, options.multi30k),
        ("captions-mlm", masked_words, options.multi30k),
        ("sentiment", sentiment, options.sst2),
    ):
        if data:
            scores = measure(load_checkpoint(options.checkpoints / name), data)
            write_scores(options.checkpoints / name, scores)
            print(name, table(scores["rows"]), *scores["notes"], "", sep="\n")


if __name__ == "__main__":
    main()
