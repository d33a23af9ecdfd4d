"""Bundles of Whisper: what is recorded, verified on both engines, and seen where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgewise.errors import BundleFormatError
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.bundle.cases import Case
from edgewise.runtime.inspect import as_text
from edgewise.runtime.load import load

from ..bundles import Damaged
from .whisper_folders import BANDS, CASES, FRAMES, LANGUAGES, library_whisper, whisper_bundle, whisper_tokenizer

pytestmark = pytest.mark.slow
SEVERAL, ONE = CASES
VARIANTS = [*((SEVERAL, t, p) for t in ("cpu", "openvino") for p in ("fp32", "int8")), (ONE, "cpu", "fp32")]
VARIANTS += [(ONE, "openvino", "fp32")]


def cases_of(case: str) -> dict[str, Case]:
    return {found.name: found for found in Bundle.open(whisper_bundle(case)).cases().cases}


@pytest.mark.parametrize(("case", "target", "precision"), VARIANTS)
def test_every_variant_gives_what_the_reference_gave(case: str, target: str, precision: str) -> None:
    with load(whisper_bundle(case), target, precision, threads=1) as session:
        report = session.verify()
    assert report.ok, report.table()
    assert len(report.cases) == 8
    assert [graph.graph for graph in report.graphs] == (["decoder"] if target == "openvino" else [])
    if target == "cpu" and precision == "int8":
        assert report.own_integers is not None
        assert report.own_integers.near == report.own_integers.steps >= 16


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_recorded_steps_are_those_of_the_library(case: str) -> None:
    library = library_whisper(whisper_bundle(case).with_name("tiny-whisper"))
    for found in cases_of(case).values():
        assert found.heard is not None and found.greedy is not None
        features = torch.from_numpy(found.heard.features(library.config.num_mel_bins, FRAMES).copy())
        read = torch.tensor([[*found.input_ids, *found.greedy.tokens[:-1]]])
        logits = library(features[None], decoder_input_ids=read).logits[0, len(found.input_ids) - 1 :]
        assert logits.argmax(-1).tolist() == list(found.greedy.tokens)
        expected = logits.log_softmax(-1)[torch.arange(len(logits)), torch.tensor(found.greedy.tokens)]
        np.testing.assert_allclose(found.greedy.token_log_probs, expected.numpy(), atol=1e-4)


def test_prompts_are_of_every_kind() -> None:
    ids = whisper_tokenizer().token_to_id
    start, silent, previous = ids("<|startoftranscript|>"), ids("<|notimestamps|>"), ids("<|startofprev|>")
    several, one = cases_of(SEVERAL), cases_of(ONE)
    assert several["quiet"].input_ids == (start, ids("<|en|>"), ids("<|transcribe|>"), silent)
    assert several["quick"].input_ids == (start, ids("<|de|>"), ids("<|translate|>"))
    assert {case.input_ids[-3] for case in several.values() if silent in case.input_ids} == {
        ids(f"<|{code}|>") for code in LANGUAGES
    }
    assert one["quiet"].input_ids == (start, silent)
    assert one["slow"].input_ids == (start,)
    for cases, context in ((several, 64), (one, 40)):
        assert cases["previous"].input_ids[0] == cases["longest"].input_ids[0] == previous
        assert len(cases["longest"].input_ids) + (cases["longest"].max_new_tokens or 0) == context + 1


def test_inspect_says_what_is_heard() -> None:
    text = as_text(Bundle.open(whisper_bundle(SEVERAL)))
    assert f"hears windows of {FRAMES} frames (0.6 s) of {BANDS} log-mel features" in text
    assert f"3 languages: {', '.join(LANGUAGES)}" in text
    assert "length penalty 1, at most 32 tokens" in text
    assert "languages" not in as_text(Bundle.open(whisper_bundle(ONE)))


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    return Damaged(whisper_bundle(SEVERAL), tmp_path / "bundle")


@pytest.mark.parametrize("name", ["front.first.weight", "front.second.weight", "front.positions", "position_table"])
def test_damage_to_what_only_speech_has_is_seen(name: str, damaged: Damaged) -> None:
    values = damaged.tensor("cpu-fp32", name)
    values[-1] += 1
    damaged.put("cpu-fp32", name, values)
    with load(damaged.path, "cpu", "fp32", threads=1) as session:
        assert not session.verify().ok


def test_features_that_are_not_those_recorded(damaged: Damaged) -> None:
    file = damaged.path / "reference" / "cases.json"
    data = json.loads(file.read_bytes())
    data["cases"][1]["heard"]["seed"] += 1
    damaged.write("reference/cases.json", json.dumps(data).encode())
    with load(damaged.path, "cpu", "fp32", threads=1) as session:
        report = session.verify()
    assert "the features of seed 2 (8 bands, 60 frames) have the SHA-256" in report.table()
    assert not report.ok


def test_a_window_of_another_size_than_the_graphs(damaged: Damaged) -> None:
    file = damaged.path / "manifest.json"
    data = json.loads(file.read_bytes())
    data["model"]["speech"]["frames"] += 2
    file.write_text(json.dumps(data))
    with pytest.raises(BundleFormatError, match=r"encoder.onnx has the input features float32 .*, expected .* 62\)"):
        load(damaged.path, "cpu", "fp32")


def test_an_encoder_of_tokens(damaged: Damaged) -> None:
    file = damaged.path / "manifest.json"
    data = json.loads(file.read_bytes())
    del data["model"]["speech"]
    data["task"] = "translate"
    file.write_text(json.dumps(data))
    with pytest.raises(BundleFormatError, match=r"as the graph 'encoder' lacks inputs ids, mask"):
        load(damaged.path, "cpu", "fp32")


def test_speech_is_no_translation(damaged: Damaged) -> None:
    file = damaged.path / "manifest.json"
    data = json.loads(file.read_bytes())
    data["task"] = "translate"
    file.write_text(json.dumps(data))
    with pytest.raises(BundleFormatError, match="task 'translate' does not fit the stacks and head of the model"):
        load(damaged.path, "cpu", "fp32")


def test_the_reference_of_a_checkpoint_is_kept(damaged: Damaged) -> None:
    checkpoint = open_checkpoint(whisper_bundle(SEVERAL).with_name("tiny-whisper"))
    manifest = Bundle.open(damaged.path).manifest
    assert manifest.provenance["checkpoint_sha256"] == checkpoint.sha256
    assert manifest.generation is not None
    assert manifest.generation.suppress == ((1,), (2,), (7,))
