"""Classes on top of a sentence encoder: ``python -m edgewise.models.sentence_head --model DIR --data DIR --out DIR``.

The encoder stays as it is. Every sentence is read once, its pooled state before any normalization is kept, and a
logistic regression is fitted to these: the smallest penalized negative log-likelihood (Hastie et al. 2009, section
4.4.4), by L-BFGS. The penalty is chosen on every tenth sentence of the training part, then all of it is used. Out comes
a checkpoint that classifies. ``--data``: a folder of ``train.tsv`` and ``dev.tsv``, each line a sentence, a tab and the
number of a class.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..errors import ConfigError, InputError
from .checkpoint import NOTICE, TOKENIZER, TRAINING, Checkpoint, save_weights, write_scores
from .data import pad, read_labelled
from .open import open_checkpoint
from .tasks import encode_lines
from .tokenizer import as_text_only
from .transformer import Transformer

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Weights of the sum of squares of the classifier's matrix, beside the mean negative log-likelihood (nats)."""
HELD_BACK = 10
BATCH = 32


def classifier_of(checkpoint: Checkpoint, names: Sequence[str]) -> Transformer:
    """The network of a sentence encoder with untrained classes in place of its vectors.

    Raises:
        ConfigError: it is no sentence encoder.
    """
    config = checkpoint.model.config
    if config.head != "embedding":
        raise ConfigError(f"{checkpoint.folder} has a {config.head!r} head, expected 'embedding': a sentence encoder")
    model = Transformer(replace(config, head="classes", normalize=False, dense=None, class_names=tuple(names)))
    model.load_state_dict(checkpoint.model.state_dict(), strict=False)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def states_of(model: Transformer, checkpoint: Checkpoint, texts: Sequence[str]) -> Tensor:
    """Pooled states ``(N, D)`` of texts, cut to the encoder's context; those of similar length go together."""
    file = checkpoint.made_tokenizer
    library = Tokenizer.from_str(file) if file else Tokenizer.from_file(str(checkpoint.tokenizer_file))
    library.no_truncation()
    library.no_padding()
    config = model.config
    ids = encode_lines(as_text_only(library), texts, checkpoint.max_context - 2)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    states = torch.empty(len(ids), config.d_model)
    for first in range(0, len(order), BATCH):
        chosen = order[first : first + BATCH]
        rows = [[config.start_id, *ids[i], config.end_id] for i in chosen]
        batch = pad(rows, config.pad_id)
        mask = torch.arange(batch.shape[1]) < torch.tensor([[len(row)] for row in rows])
        states[chosen] = model.pooled(model.encode(batch, mask), mask)
    return states


def fitted(states: Tensor, labels: Tensor, classes: int, penalty: float) -> nn.Linear:
    """The classifier ``(D) -> (classes)`` of least penalized loss, in float64."""
    head = nn.Linear(states.shape[1], classes, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    wide = states.double()
    search = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = F.cross_entropy(head(wide), labels) + penalty * head.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    return head


def accuracy(head: nn.Linear, states: Tensor, labels: Tensor) -> float:
    """Share of the ``states (N, D)`` whose best class is their label, in percent."""
    with torch.no_grad():
        right = head(states.double()).argmax(1) == labels
    return float(100 * right.double().mean())


def chosen_penalty(states: Tensor, labels: Tensor, classes: int) -> float:
    """The one of ``PENALTIES`` that does best on every tenth text; of equals the larger."""
    held = torch.arange(len(labels)) % HELD_BACK == 0
    scores = {
        p: accuracy(fitted(states[~held], labels[~held], classes, p), states[held], labels[held]) for p in PENALTIES
    }
    return max(scores, key=lambda p: (scores[p], p))


def train(source: Path, data: Path, out: Path, names: Sequence[str]) -> float:
    """Make the checkpoint ``out``; returns its accuracy on the development part, in percent.

    Raises:
        CheckpointError, ConfigError: ``source`` is no sentence encoder that can be read.
        InputError: the data cannot be read, or has a class beyond ``names``.
    """
    checkpoint = open_checkpoint(source)
    model = classifier_of(checkpoint, names)
    parts = [read_labelled(data / f"{part}.tsv") for part in ("train", "dev")]
    if (most := max(label for _, labels in parts for label in labels)) >= len(names):
        raise InputError(f"{data} has the class number {most}, expected less than {len(names)}: name every class")
    (seen, classes), (judged, truth) = ((states_of(model, checkpoint, t), torch.tensor(n)) for t, n in parts)
    penalty = chosen_penalty(seen, classes, len(names))
    head = fitted(seen, classes, len(names), penalty)
    assert model.classifier is not None
    model.classifier.weight.data = head.weight.detach().float()
    model.classifier.bias.data = head.bias.detach().float()
    score = accuracy(head, judged, truth)
    _write(out, model, checkpoint, penalty, score)
    return score


def _write(out: Path, model: Transformer, checkpoint: Checkpoint, penalty: float, score: float) -> None:
    save_weights(model, out)
    checkpoint.write_tokenizer(out / TOKENIZER)
    (out / NOTICE).write_text(checkpoint.notice, encoding="utf-8")
    recipe = f"logistic regression on the pooled states of {checkpoint.name}"
    facts = {"recipe": recipe, "penalty": penalty, "encoder_sha256": checkpoint.sha256}
    (out / TRAINING).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_scores(out, {"dev_accuracy": score})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and say how good it is."""
    parser = argparse.ArgumentParser(prog="python -m edgewise.models.sentence_head", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the sentence encoder's folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    parser.add_argument("--names", nargs="+", default=["negative", "positive"], help="names of the classes")
    given = parser.parse_args(arguments)
    score = train(given.model, given.data, given.out, given.names)
    print(f"{given.out}: {score:.1f} % of the development part right")


if __name__ == "__main__":
    main()
