"""The published all-MiniLM-L6-v2, from its files to similarity scores judged by people (STS-B, Cer et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

import edgewise
from edgewise.models.open import open_checkpoint

from ..bundles import export_few
from .folders import library_bert

pytestmark = [pytest.mark.real, pytest.mark.slow]
PUBLISHED = 0.8672
"""Spearman correlation of the original float32 model's cosines with the 1500 scores of the development set."""


class Pairs(NamedTuple):
    """The development set: what people gave, 0 to 5, and the two sentences."""

    scores: list[float]
    left: list[str]
    right: list[str]


@pytest.fixture(scope="module")
def pairs(sts: Path) -> Pairs:
    rows = [line.split("\t") for line in (sts / "sts-dev.csv").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 1500
    return Pairs([float(row[4]) for row in rows], [row[5] for row in rows], [row[6] for row in rows])


@pytest.fixture(scope="module")
def folder(models: Callable[[str], Path]) -> Path:
    return models("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("minilm") / "bundle"
    export_few(folder, out)
    return out


Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]


def vectors(bundle: Path, variant: str, pairs: Pairs) -> Vectors:
    with edgewise.load(bundle, *variant.split("-"), threads=1) as session:
        left, right = (np.array([e.vector for e in session.embed(side)]) for side in (pairs.left, pairs.right))
    return left, right


@pytest.fixture(scope="module")
def exact(bundle: Path, pairs: Pairs) -> Vectors:
    return vectors(bundle, "cpu-fp32", pairs)


def correlation(found: Vectors, pairs: Pairs) -> float:
    return float(spearmanr(pairs.scores, (found[0] * found[1]).sum(1)).statistic)


@torch.no_grad()
def test_states_are_those_of_the_library(folder: Path, assert_close: Callable[..., None]) -> None:
    ids = torch.randint(1000, 30_000, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(40) < torch.tensor([[40], [1], [23]])
    expected = library_bert(folder)(ids, attention_mask=mask.long()).last_hidden_state
    assert_close(open_checkpoint(folder).model.encode(ids, mask)[mask], expected[mask])


def test_float32_scores_as_published(exact: Vectors, pairs: Pairs) -> None:
    assert abs(correlation(exact, pairs) - PUBLISHED) <= 0.0005


def test_openvino_gives_the_same_vectors(bundle: Path, pairs: Pairs, exact: Vectors) -> None:
    for own, other in zip(vectors(bundle, "openvino-fp32", pairs), exact, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["cpu-int8", "openvino-int8"])
def test_integers_keep_the_score_and_the_vectors(variant: str, bundle: Path, pairs: Pairs, exact: Vectors) -> None:
    found = vectors(bundle, variant, pairs)
    assert abs(correlation(found, pairs) - correlation(exact, pairs)) <= 0.002
    cosine = np.concatenate([(a * b).sum(1) for a, b in zip(found, exact, strict=True)])
    assert cosine.mean() >= 0.999
    assert cosine.min() >= 0.995  # of 3000 sentences the worst on OpenVINO has 0.997


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
def test_the_reference_is_replayed(variant: str, bundle: Path) -> None:
    with edgewise.load(bundle, *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.table()
