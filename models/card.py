"""Model cards and licence notices, rendered from what training and scoring wrote: ``python -m edgewise.models.card``.

A card holds no number of its own, so it cannot be stale unless it was not rendered again; a test looks for that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import CONFIG, NOTICE, TRAINING, WEIGHTS, current_scores
from .config import ModelConfig, StackConfig

CARD = "README.md"
CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"

MULTI30K = """\
LicenseRef-Multi30k-NonCommercial

Trained on Multi30k (https://github.com/multi30k/dataset, commit a3d2e0d), captions of images of Flickr30K. The captions
may be used for non-commercial research and education only, as those of Flickr30K. These weights are offered under the
same condition: non-commercial research and education, no other use.
"""
SST = """\
LicenseRef-SST-NoLicenceStated

Trained on sentences of the Stanford Sentiment Treebank (R. Socher et al., EMNLP 2013), which states no licence. Whoever
uses these weights beyond research and education has to clear the rights in that data first.
"""


@dataclass(frozen=True, kw_only=True)
class About:
    """What no file of a checkpoint says: the words around its numbers."""

    title: str
    summary: str
    data: str
    chosen: str
    notice: str
    use: str
    limits: Sequence[str]


_CAPTIONS = """\
Multi30k, the English captions: 29 000 to train on, 1 014 (`val`) to choose on, 1 000 (`test_2016_flickr`) to report.
Licence: non-commercial research and education, as Flickr30K. Citation: Elliott et al. 2016; images and English captions
from Young et al. 2014."""
_CAPTION_LIMITS = (
    "It knows captions of photographs, a sentence of some 12 words in the present tense: do not rely on it elsewhere.",
    "Captions say what annotators took for the gender, age and origin of people; the model repeats that.",
)

ABOUT: dict[str, About] = {
    "translate-en-de": About(
        title="English to German for captions",
        summary='The encoder-decoder of "Attention Is All You Need" (Vaswani et al. 2017), at a small size.',
        data=_CAPTIONS.replace("the English captions", "English captions and their German translations"),
        chosen="The length of the run and the length penalty were chosen on `val`; the test decided nothing.",
        notice=MULTI30K,
        use="Research and education: a real translation model small enough to export, quantize and run anywhere.",
        limits=(*_CAPTION_LIMITS, "One sentence at a time, English to German only; no terminology, no documents."),
    ),
    "captions-lm": About(
        title="A language model of captions",
        summary='The decoder of "Attention Is All You Need" alone: it writes captions, token by token.',
        data=_CAPTIONS,
        chosen="Sizes and the length of the run were chosen on `val`.",
        notice=MULTI30K,
        use="Research and education: the decoder-only shape of the family, to export, quantize and run.",
        limits=(*_CAPTION_LIMITS, "It follows no instructions and knows no facts."),
    ),
    "captions-mlm": About(
        title="Masked words of captions",
        summary='The encoder of "Attention Is All You Need" alone: it fills in masked tokens (Devlin et al. 2019).',
        data=_CAPTIONS,
        chosen="Sizes and the length of the run were chosen on `val`.",
        notice=MULTI30K,
        use="Research and education: the encoder-only shape of the family, to export, quantize and run.",
        limits=(*_CAPTION_LIMITS, "A mask stands for one token, which may be only a part of a word."),
    ),
    "sentiment": About(
        title="Sentiment of film reviews",
        summary='The encoder of "Attention Is All You Need" with a linear classifier on the mean of its states.',
        data="""\
SST-2, whole sentences only (no phrases): 6 920 sentences to train on, of which every tenth is held back to choose
on, and 872 (`dev`) to report. Licence: the Stanford Sentiment Treebank states none. Citation: Socher et al. 2013.""",
        chosen="Everything was chosen on the held-out tenth of the training part; `dev` decided nothing.",
        notice=SST,
        use="Research and education: a classifier of the family, to export, quantize and run.",
        limits=(
            "Lower-case sentences of film reviews, punctuation between spaces; elsewhere it guesses by single words.",
            "BPE-dropout draws its own random numbers: the same command gives other weights, a point up or down.",
            "Irony, comparisons and negation over a distance are beyond it; its probabilities are not calibrated.",
        ),
    ),
}


def notice(folder: Path) -> str:
    """The licence notice of the weights, which bundles carry and ``inspect`` prints."""
    return _about(folder).notice


def card(folder: Path) -> str:
    """The model card of a checkpoint folder, in Markdown."""
    about, training = _about(folder), _training(folder)
    config = ModelConfig.from_json(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    sections = {
        "Network": _network(config, (folder / WEIGHTS).stat().st_size),
        "Data": about.data,
        "Recipe": _recipe(training) + f"\n\n{about.chosen}",
        "Curve": "![loss over updates](curve.png)",
        "Scores": _scores(current_scores(folder)),
        "Intended use": about.use,
        "Limits": "\n".join(f"- {limit}" for limit in about.limits),
        "Licence": f"The weights' own notice, in `{NOTICE}`:\n\n```\n{about.notice.rstrip()}\n```",
    }
    body = "\n\n".join(f"## {name}\n{text}" for name, text in sections.items())
    return f"# {about.title}\n{about.summary}\n\n{body}\n"


def _about(folder: Path) -> About:
    return ABOUT[_training(folder)["recipe"]]


def _training(folder: Path) -> dict[str, Any]:
    training: dict[str, Any] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    return training


def _network(config: ModelConfig, size: int) -> str:
    parts = [f"{config.architecture}, {config.head} head, {config.vocab_size} tokens (joint byte-pair encoding)"]
    for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        parts += [f"{name}: {_stack(stack)}"] if stack else []
    parts.append(f"{config.max_positions} positions at most; float16 weights, {size / 1e6:.2f} MB")
    return "\n".join(f"- {part}" for part in parts)


def _stack(stack: StackConfig) -> str:
    wide = f" of width {stack.head_width}" if stack.head_dim is not None else ""
    return (
        f"{stack.n_layers} layers, d_model {stack.d_model}, {stack.n_heads} heads{wide}, d_ff {stack.d_ff}, "
        f"{stack.norm_place}-norm, {stack.activation}"
    )


_WORDS = {
    "updates": "updates",
    "batch_tokens": "padded tokens an update",
    "peak_rate": "peak learning rate (Adam)",
    "warmup": "updates of warm-up",
    "decay": "decay of the learning rate",
    "cooldown": "last updates, over which it falls linearly to nothing",
    "dropout": "dropout on embeddings and residuals",
    "smoothing": "label smoothing",
    "embedding_scale": "scale of the first embeddings",
    "bpe_dropout": "BPE-dropout",
    "averaged": "snapshots averaged",
    "interval": "updates between snapshots",
    "begun_with": "begun with the weights of",
}


def _recipe(training: Mapping[str, Any]) -> str:
    """Only what the run wrote; a run of an earlier version wrote less."""
    rows = [f"| {words} | {training[key]} |" for key, words in _WORDS.items() if training.get(key) is not None]
    products = "bfloat16 products, float32 sums" if training.get("bfloat16") else "float32"
    done = f"{training['curve'][-1]['update']:.0f}" if training.get("curve") else "no"
    head = f"`python -m edgewise.models.train {training['recipe']}`, {products}, torch {training['torch']}"
    return "\n".join([f"{head}; {done} updates done.", "", "| | |", "| --- | --- |", *rows])


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return "These weights have not been scored yet."
    rows: list[Mapping[str, Any]] = scores["rows"]
    lines = [_line(list(rows[0])), _line(["---"] * len(rows[0])), *(_line(list(row.values())) for row in rows)]
    signatures = [f"- {name}: `{value}`" for name, value in scores.get("signatures", {}).items()]
    notes = [f"- {note}" for note in scores.get("notes", [])]
    return "\n".join(lines + ([""] if signatures or notes else []) + notes + signatures)


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def render(folder: Path) -> None:
    """Write the card and the notice."""
    (folder / CARD).write_text(card(folder), encoding="utf-8")
    (folder / NOTICE).write_text(notice(folder), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m edgewise.models.card", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="*", help="checkpoint folders (default: all that are shipped)")
    chosen = parser.parse_args(arguments).checkpoints or sorted(f.parent for f in CHECKPOINTS.glob(f"*/{TRAINING}"))
    for folder in chosen:
        render(folder)
        print(folder / CARD)


if __name__ == "__main__":
    main()
