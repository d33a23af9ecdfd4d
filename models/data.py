"""Corpora as token ids, and batches of a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError


def read_lines(file: Path) -> list[str]:
    """Lines of a UTF-8 text file, trailing spaces stripped.

    Raises:
        InputError: no such file, or not UTF-8.
    """
    if not file.is_file():
        raise InputError(f"{file}: expected a text file with a sentence a line, found none: check --data")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected UTF-8, byte {error.start} is not: convert the file") from error
    return [line.rstrip() for line in text.removesuffix("\n").split("\n")]


def read_labelled(file: Path) -> tuple[list[str], list[int]]:
    """Sentences and labels of a file of ``sentence TAB label`` lines.

    Raises:
        InputError: see :func:`read_lines`; or a line without a tab and a whole number at its end.
    """
    rows = [line.rpartition("\t") for line in read_lines(file)]
    for number, (_, _, label) in enumerate(rows, 1):
        if not label.isdecimal():
            raise InputError(f"{file}, line {number}: expected a sentence, a tab and a class number, got {label!r:.60}")
    return [row[0] for row in rows], [int(row[2]) for row in rows]


MULTIPLE = 4
"""Lengths are padded up to a multiple of this: few distinct shapes, since the CPU's kernels are compiled per shape."""


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """``(B, longest)`` int64, padded on the right, the longest rounded up."""
    out = torch.full((len(rows), rounded(max(map(len, rows)))), pad_id)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def rounded(length: int) -> int:
    """The padded length of a row."""
    return -(-length // MULTIPLE) * MULTIPLE


@dataclass(frozen=True)
class Batches:
    """Sentences of similar length together, shuffled by ``seed``; ``max_tokens`` a batch, padding counted.

    A sentence longer than that is a batch alone.
    """

    lengths: Sequence[int]
    max_tokens: int

    def epoch(self, seed: int) -> Iterator[list[int]]:
        """Indices, a list a batch; each sentence once."""
        rng = np.random.default_rng(seed)
        noisy = np.asarray(self.lengths) + rng.random(len(self.lengths)) * 2.0
        batches: list[list[int]] = [[]]
        width = 0
        for i in np.argsort(noisy, kind="stable").tolist():
            width = max(width, rounded(self.lengths[i]))
            if batches[-1] and (len(batches[-1]) + 1) * width > self.max_tokens:
                batches.append([])
                width = rounded(self.lengths[i])
            batches[-1].append(i)
        for b in rng.permutation(len(batches)):
            yield batches[b]
