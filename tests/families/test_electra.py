"""ELECTRA in bundles: its heads and its vectors, on both engines and in integers. Its numbers: ``test_heads.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgewise
from edgewise.errors import ConfigError
from edgewise.models.open import open_checkpoint

from ..bundles import export_few
from .encoders import CLASSES, check_masked_words, electra_head, library
from .folders import change_json, library_ids, wordpiece, write_json

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "more_transformers_4_57_1.json").read_text())
TEXTS = ["a man is riding a bicycle .", "Dogs play in the snow!", "two dogs"]


def vectors_folder(folder: Path) -> Path:
    """An ``ElectraModel`` whose states sentence-transformers pool."""
    electra_head(folder, "Model", seed=2)
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(task)``: the original library's model on disk."""

    @cache
    def made(task: str) -> Path:
        out = tmp_path_factory.mktemp("electra") / task
        if task == "embed":
            return vectors_folder(out)
        return electra_head(out, "ForMaskedLM") if task == "fill_mask" else electra_head(out, task, **CLASSES)

    return made


@pytest.fixture(scope="module")
def bundle(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``bundle(task)``: fp32 and int8 for both targets."""

    @cache
    def made(task: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / task
        export_few(folder(task), out)
        return out

    return made


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
@pytest.mark.parametrize("task", ["fill_mask", "embed", "ForSequenceClassification"])
def test_every_variant_replays_the_reference(task: str, variant: str, bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle(task), *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.summary()


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_masked_words_are_those_of_the_pipeline(
    target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path]
) -> None:
    model = library(folder("fill_mask"), "ElectraForMaskedLM")
    with edgewise.load(bundle("fill_mask"), target, "fp32", 1) as session:
        check_masked_words(session, model, 29, ("a man is <mask> .", "<mask> dogs play"))


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@torch.no_grad()
def test_vectors_are_the_mean_of_the_librarys_states(
    target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path], assert_close: Compare
) -> None:
    model = library(folder("embed"), "ElectraModel")
    with edgewise.load(bundle("embed"), target, "fp32", 1) as session:
        for text, found in zip(TEXTS, session.embed(TEXTS), strict=True):
            ids = library_ids(wordpiece(), text)
            assert list(found.tokens) == ids
            states = model(torch.tensor([ids])).last_hidden_state[0].double()
            assert_close(found.vector, (states.sum(0) / len(states)).float().numpy().astype(np.float32), atol=1e-4)


@pytest.mark.parametrize("case", [name for name in GOLDEN if name.startswith("Electra")])
def test_a_configuration_of_release_4(case: str, tmp_path: Path) -> None:
    head = case.removeprefix("Electra")
    made = electra_head(tmp_path / "tiny", head, **(CLASSES if "Class" in head else {}))
    expected = open_checkpoint(made).model.config
    write_json(made / "config.json", GOLDEN[case])
    assert open_checkpoint(made).model.config == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key', expected 'absolute'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, expected True"),
        ({"new_switch": 1}, r"new_switch \(1\) is not understood"),
    ],
)
def test_what_is_not_understood_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = electra_head(tmp_path / "tiny", "ForMaskedLM")
    change_json(made / "config.json", **fields)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(made)
