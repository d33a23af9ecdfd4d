"""How good a bundle of a published model is, on the data that its own library is judged by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..runtime.session import Session
from .peers.quality import correlation, perplexity

WINDOW, WINDOWS = 512, 20
"""Tokens of a window, and windows of a text, of which perplexity is taken."""
TEXTS = {"WikiText-2": ("wikitext2_test.txt", ""), "Alice": ("alice_body.txt", "CHAPTER I")}
"""File of a text, and where in it the first window begins."""
_CHARACTERS = 100_000  # more than so many windows of any text have


def text_quality(session: Session, assets: Path) -> dict[str, float]:
    """Perplexity of a language model on the first windows of each text, lower is better."""
    return {
        f"perplexity {name}": _perplexity(session, assets / "text" / file, start)
        for name, (file, start) in TEXTS.items()
    }


def _perplexity(session: Session, file: Path, start: str) -> float:
    """Every window by itself, its first token given."""
    text = _read(file)
    ids = session.tokenizer.encode(text[text.index(start) :][:_CHARACTERS])
    window = min(WINDOW, session.manifest.max_context)
    model, found = session.manifest.model, []
    for begin in range(0, WINDOWS * window, window):
        read = np.array([model.prompt(ids[begin : begin + window])[:window]], np.int64)
        logits = session.engine.decoder_logits(None, read, np.ones(read.shape, np.bool_))[0, :-1].astype(np.float64)
        of_next = np.take_along_axis(logits, read[0, 1:, None], axis=1)[:, 0]
        found.append((of_next - np.logaddexp.reduce(logits, axis=1)).tolist())
    return perplexity(found)


def vector_quality(session: Session, assets: Path) -> dict[str, float]:
    """Spearman's rank correlation of cosines with what people gave, on the development set of STS-B."""
    rows = [line.split("\t") for line in _read(assets / "sts" / "sts-dev.csv").splitlines()]
    vectors = [e.vector.tolist() for e in session.embed([text for row in rows for text in row[5:7]])]
    return {"Spearman STS-B dev": correlation(vectors, [float(row[4]) for row in rows])}


def class_quality(session: Session, assets: Path) -> dict[str, float]:
    """Share of right classes on the development set of SST-2, whose class 1 is the second of the bundle's."""
    rows = [line.split("\t") for line in _read(assets / "sst2" / "dev.tsv").splitlines()]
    names = session.manifest.model.class_names
    found = session.classify([text for text, _ in rows])
    right = [names.index(answer.label) == int(label) for answer, (_, label) in zip(found, rows, strict=True)]
    return {"accuracy SST-2 dev": float(np.mean(right))}


QUALITIES: dict[str, Callable[[Session, Path], dict[str, float]]] = {
    "generate": text_quality,
    "embed": vector_quality,
    "classify": class_quality,
}
"""By the task of a bundle."""


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): --assets names the folder of the data") from error
