"""Train one of the shipped checkpoints: ``python -m edgewise.models.train RECIPE --data DIR --out DIR``.

A run keeps its whole state beside its curve, so the same command goes on where a stopped one stood. Weights, curve and
scores are written as a checkpoint folder at the end, and at every interval an early one, so that what comes after
training never has to wait for it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import shutil
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..errors import CheckpointError
from .card import render
from .checkpoint import TOKENIZER, TRAINING, load_checkpoint, save_weights
from .curve import draw_curve
from .data import Batches
from .dropout import seed_dropout
from .evaluate import validation_bleu
from .recipes import RECIPES, Corpus, Recipe
from .state import Average, load_state, save_state
from .tasks import Task, Translation
from .tokenizer import as_text_only, train_bpe, with_dropout
from .transformer import Transformer


class Run:
    """One training run: its data, its network, and where it stands."""

    def __init__(self, name: str, recipe: Recipe, data: Path, out: Path, start: Path | None, low: bool) -> None:
        self.name, self.recipe, self.out, self.low = name, recipe, out, low
        self.work = out / "run"
        self.work.mkdir(parents=True, exist_ok=True)
        self.corpus: Corpus = recipe.corpus(data)
        self.tokenizer = self._tokenizer(start)
        self.model = Transformer(recipe.config(self.tokenizer.get_vocab_size()), recipe.dropout)
        self.begun_with = start and start.name
        self._begin(start)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9, fused=True)
        self.average = Average(self.work, recipe.averaged)
        self.step, self.epoch, self.seconds = 0, 0, 0.0
        self.curve: list[dict[str, float]] = []
        if self.state_file.exists():
            facts = load_state(self.state_file, self.model, self.optimizer)
            self.step, self.epoch = facts["step"], facts["epoch"]
            self.curve, self.seconds = facts["curve"], facts["seconds"]
            self.begun_with = facts.get("begun_with")
        self.average.rewind(self.step)

    @property
    def state_file(self) -> Path:
        """Where the run's state lies."""
        return self.work / "state.safetensors"

    def _tokenizer(self, start: Path | None) -> Tokenizer:
        file = self.out / TOKENIZER
        if start is not None and not file.exists():
            shutil.copyfile(start / TOKENIZER, file)
        if start is not None and file.read_bytes() != (start / TOKENIZER).read_bytes():
            raise CheckpointError(f"{file} is not the tokenizer of {start}: give another --out, or no --init")
        if not file.exists():
            train_bpe(self.corpus.text, self.recipe.vocab_size).save(str(file))
        return as_text_only(Tokenizer.from_file(str(file)))

    def _begin(self, start: Path | None) -> None:
        """The first weights: random ones, or those of ``start`` wherever both networks have them."""
        with torch.no_grad():
            self.model.embedding.weight.mul_(self.recipe.embedding_scale)
        if start is not None:
            own, theirs = self.model.state_dict(), load_checkpoint(start).model.state_dict()
            shared = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
            self.model.load_state_dict({**own, **shared})

    def train(self) -> None:
        """Go on to the last update; write the checkpoint."""
        self.corpus.valid.tokenize(self.tokenizer)
        with tqdm(total=self.recipe.updates, initial=self.step, unit="update", file=sys.stderr) as bar:
            while self.step < self.recipe.updates:
                self._one_epoch(bar)
        self.write_checkpoint()

    def _one_epoch(self, bar: tqdm[Any]) -> None:
        """One pass over the corpus, its merges and masks seeded by the epoch; state is kept at its end."""
        task = self.corpus.train
        task.tokenize(with_dropout(self.tokenizer, self.recipe.bpe_dropout))
        rng = np.random.default_rng(self.epoch)
        seed_dropout(self.epoch)
        began = time.monotonic()
        for batch in Batches(task.lengths(), self.recipe.batch_tokens).epoch(self.epoch):
            loss = self._update(task, batch, rng)
            self.step += 1
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
            if self.step % self.recipe.interval == 0 or self.step == self.recipe.updates:
                self._evaluate(loss)
            if self.step == self.recipe.updates:
                break
        self.epoch += 1
        self.seconds += time.monotonic() - began
        facts = {
            "step": self.step,
            "epoch": self.epoch,
            "curve": self.curve,
            "seconds": self.seconds,
            "languages": self.recipe.languages,
            "begun_with": self.begun_with,
        }
        save_state(self.state_file, self.model, self.optimizer, facts)
        self.average.prune()

    def _update(self, task: Task, batch: list[int], rng: np.random.Generator) -> float:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step + 1)
        # The fused attention kernel is ten times slower in bfloat16 than the plain one.
        attention = sdpa_kernel(SDPBackend.MATH) if self.low else nullcontext()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low), attention:
            states, labels = task.states(self.model, batch, rng)
        loss = task.backward(self.model, states, labels, self.recipe.smoothing, self.low)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def _evaluate(self, loss: float) -> None:
        """A row of the curve, from the averaged weights, and an early checkpoint."""
        self.average.add(self.model, self.step)
        row = {"update": float(self.step), "train_loss": loss, **self._scores(self._averaged())}
        self.curve.append(row)
        tqdm.write(json.dumps(row), file=sys.stderr)
        draw_curve(self.curve, self.name, self.out / "curve.png")
        self.write_checkpoint()

    def _averaged(self) -> Transformer:
        model = Transformer(self.model.config)
        model.load_state_dict(self.average.weights())
        return model.eval()

    def _scores(self, model: Transformer) -> dict[str, float]:
        valid, total, count = self.corpus.valid, 0.0, 0
        rng = np.random.default_rng(0)
        right = 0
        with torch.no_grad():
            for batch in Batches(valid.lengths(), 4096).epoch(0):
                states, labels = valid.states(model, batch, rng)
                loss, n = valid.loss(model, states, labels)
                total, count = total + loss, count + n
                if model.classifier is not None:
                    right += int((states.argmax(1) == labels).sum())
        scores = {"valid_loss": total / count}
        if model.classifier is not None:
            scores["valid_accuracy"] = 100.0 * right / count
        if isinstance(valid, Translation) and self.step % (4 * self.recipe.interval) == 0:
            scores["valid_bleu"] = validation_bleu(model, self.tokenizer, valid)
        return scores

    def write_checkpoint(self) -> None:
        """The averaged weights and what is known of them."""
        save_weights(self._averaged(), self.out)
        recipe = {k: v for k, v in vars(self.recipe).items() if isinstance(v, int | float | str)}
        facts = {
            "recipe": self.name,
            **recipe,
            "begun_with": self.begun_with,
            "bfloat16": self.low,
            "seconds": round(self.seconds),
            "curve": self.curve,
            "torch": torch.__version__,
        }
        (self.out / TRAINING).write_text(json.dumps(facts, indent=1) + "\n")


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then the inverse square root of the update (Vaswani et al. 2017, equation 3), or linear decay."""
    if recipe.decay == "linear":
        left = (recipe.updates - step) / (recipe.updates - recipe.warmup)
        return recipe.peak_rate * max(0.0, min(step / recipe.warmup, left))
    drawn = min(1.0, (recipe.updates - step) / recipe.cooldown) if recipe.cooldown else 1.0
    return recipe.peak_rate * min(step / recipe.warmup, math.sqrt(recipe.warmup / step)) * drawn


def keep_freed_memory() -> None:
    """Ask glibc not to give large blocks back: mapping them anew each update costs page faults."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m edgewise.models.train", description=__doc__.split("\n")[0])
    parser.add_argument("recipe", choices=sorted(RECIPES), help="which checkpoint to train")
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpus (Multi30k, or SST-2)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; a run there is continued")
    parser.add_argument("--init", type=Path, help="begin with the weights and tokenizer of this checkpoint")
    parser.add_argument("--updates", type=int, help="updates in all (default: the recipe's)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="processor threads")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16: faster where the CPU has it")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    arguments = _arguments()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    recipe = RECIPES[arguments.recipe]
    if arguments.updates:
        recipe = replace(recipe, updates=arguments.updates)
    Run(arguments.recipe, recipe, arguments.data, arguments.out, arguments.init, arguments.bf16).train()
    render(arguments.out)


if __name__ == "__main__":
    main()
