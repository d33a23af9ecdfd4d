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
    """Lines of a UTF-8 text file, trailing spaces stripped."""
    if not file.is_file():
        raise InputError(f"{file}: expected a text file with a sentence a line, found none: check --data")
    return [line.rstrip() for line in file.read_text(encoding="utf-8").splitlines()]


def read_labelled(file: Path) -> tuple[list[str], list[int]]:
    """Sentences and labels of a file of ``sentence TAB label`` lines."""
    rows = [line.rsplit("\t", 1) for line in read_lines(file)]
    return [row[0] for row in rows], [int(row[1]) for row in rows]


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
    """Sentences of similar length together, at most ``max_tokens`` padded tokens a batch, shuffled by ``seed``."""

    lengths: Sequence[int]
    max_tokens: int

    def epoch(self, seed: int) -> Iterator[list[int]]:
        """Indices, a list a batch; each sentence once."""
        rng = np.random.default_rng(seed)
        noisy = np.asarray(self.lengths) + rng.random(len(self.lengths)) * 2.0
        batches: list[list[int]] = [[]]
        for i in np.argsort(noisy, kind="stable").tolist():
            if batches[-1] and (len(batches[-1]) + 1) * rounded(self.lengths[i]) > self.max_tokens:
                batches.append([])
            batches[-1].append(i)
        for b in rng.permutation(len(batches)):
            yield batches[b]
