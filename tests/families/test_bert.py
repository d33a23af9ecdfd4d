"""BERT against ``transformers``: every switch that changes the mathematics, reference to bundle, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import edgewise
from edgewise.errors import ContextLengthError, InputError
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.model_spec import ModelSpec

from ..bundles import Damaged, export_few
from ..open_model import open_model
from .folders import WORDS, bert_folder, library_bert, library_ids, wordpiece

pytestmark = pytest.mark.slow
CASES: dict[str, dict[str, Any]] = {
    "as published": {},
    "first state, not normalized": {"pooling": "cls", "normalize": False, "hidden_act": "relu"},
    "mean, not normalized": {"normalize": False, "hidden_act": "gelu_new", "layer_norm_eps": 0.2},
    "three segments": {"pooling": "cls", "type_vocab_size": 3, "hidden_act": "silu", "num_attention_heads": 2},
}
TEXTS = [
    "a man is riding a bicycle .",
    "two dogs play",
    "Dogs!",
    "the girl in the red hat on the street , playing in snow",
]
Compare = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: bert_folder(tmp_path_factory.mktemp("bert"), seed=len(case), **CASES[case]))


def random_batch(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask; one row is as long as the table of positions."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 30, (4, 40), generator=generator)
    mask = torch.arange(40) < torch.tensor([[40], [1], [17], [6]])
    return ids, mask


@torch.no_grad()
def vector_of(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    """Pooled by hand from the original library's states of one text alone."""
    states = library_bert(folder)(torch.tensor([ids])).last_hidden_state[0].double()
    case = next(options for options in CASES.values() if _same_case(folder, options))
    vector = states[0] if case.get("pooling") == "cls" else sum(states) / len(states)
    if case.get("normalize", True):
        vector = vector / (vector * vector).sum().sqrt()
    return vector.float().numpy()  # type: ignore[union-attr]


def _same_case(folder: Path, options: dict[str, Any]) -> bool:
    normalizes = "Normalize" in (folder / "modules.json").read_text()
    first = '"pooling_mode_cls_token": true' in (folder / "1_Pooling" / "config.json").read_text()
    return normalizes == options.get("normalize", True) and first == (options.get("pooling") == "cls")


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_are_those_of_the_library(case: str, folder: Callable[[str], Path], assert_close: Compare) -> None:
    ids, mask = random_batch()
    expected = library_bert(folder(case))(ids, attention_mask=mask.long()).last_hidden_state
    actual = open_checkpoint(folder(case)).model.encode(ids, mask)
    assert_close(actual[mask], expected[mask])


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_engines_give_the_librarys_states_and_vectors(
    case: str, target: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    ids, mask = random_batch()
    expected = library_bert(folder(case))(ids, attention_mask=mask.long()).last_hidden_state.numpy()
    model = open_checkpoint(folder(case)).model
    hidden, vectors = open_model(model, target, tmp_path / "v").encode(ids.numpy(), mask.numpy(), None)
    assert_close(hidden[mask.numpy()], expected[mask.numpy()], atol=1e-4)
    rows = [ids[i][mask[i]].tolist() for i in range(len(ids))]
    assert_close(vectors, np.array([vector_of(folder(case), row) for row in rows]), atol=1e-4)


@pytest.fixture(scope="module")
def bundle(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the first case, fp32 and int8 for both targets."""
    out = tmp_path_factory.mktemp("bundle") / "bert"
    export_few(folder("as published"), out)
    return out


def expected_ids(text: str) -> list[int]:
    return library_ids(wordpiece(), text)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_session_embeds_texts_as_the_library_does(
    target: str, bundle: Path, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    with edgewise.load(bundle, target, "fp32", 1) as session:
        found = session.embed(TEXTS)
        alone = [session.embed(text) for text in TEXTS]
    for text, one, other in zip(TEXTS, found, alone, strict=True):
        assert list(one.tokens) == expected_ids(text)
        assert not one.truncated
        assert_close(one.vector, vector_of(folder("as published"), expected_ids(text)), atol=1e-4)
        assert_close(other.vector, one.vector, atol=1e-5)


def test_similarity_is_the_cosine_of_every_pair(bundle: Path, assert_close: Compare) -> None:
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        vectors = [e.vector.astype(np.float64) for e in session.embed(TEXTS)]
        found = session.similarity(TEXTS, TEXTS[:2])
        one = session.similarity(TEXTS[3], TEXTS[1])
    by_hand = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in vectors[:2]] for a in vectors]
    assert_close(found, np.array(by_hand, np.float32))
    assert one.shape == (1, 1)
    assert_close(one[0], np.array([by_hand[3][1]], np.float32))


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
def test_every_variant_replays_the_reference(variant: str, bundle: Path) -> None:
    with edgewise.load(bundle, *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.summary()
    assert report.positions == 2 * len(report.cases)
    assert report.largest("vector") > 0
    assert "nearest to their own reference" in report.summary()


@pytest.mark.parametrize("tensor", ["position_table", "encoder.layers.1.attention.output.weight"])
def test_a_replay_sees_damage(tensor: str, bundle: Path, tmp_path: Path) -> None:
    damaged = Damaged(bundle, tmp_path / "damaged")
    damaged.put("cpu-fp32", tensor, damaged.tensor("cpu-fp32", tensor) * 1.01)
    with edgewise.load(damaged.path, "cpu", "fp32", 1) as session:
        report = session.verify()
    assert not report.ok
    assert any("distance, by length, is" in fault for fault in report.faults)
    assert any("all cases: vectors lie" in fault for fault in report.faults)


def test_a_long_text_is_refused_or_cut_at_the_folders_own_limit(bundle: Path) -> None:
    words = " ".join(WORDS[:16] * 2)  # 32 tokens, and 2 specials, where 30 fit
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        with pytest.raises(ContextLengthError, match="text 0 has 34 tokens, more than the 30 this model reads"):
            session.embed([words])
        cut = session.embed(words, overflow="truncate")
    assert cut.truncated
    assert list(cut.tokens) == [*expected_ids(words)[:29], 3]


def test_other_methods_name_those_that_fit(bundle: Path) -> None:
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        assert session.encode(TEXTS[1]).hidden.shape == (5, 32)
        with pytest.raises(InputError, match="made for embed: call embed, similarity or encode"):
            session.classify("a man")


def test_the_bundle_says_what_its_model_is(bundle: Path) -> None:
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        model = session.manifest.model
        assert (session.manifest.task, session.manifest.max_context) == ("embed", 30)
    assert isinstance(model, ModelSpec)
    assert (model.head, model.pooling, model.normalize, model.positions) == ("embedding", "mean", True, "learned")


def test_integers_stay_near(bundle: Path) -> None:
    texts = [*TEXTS, *WORDS[:12]]
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        exact = np.array([e.vector for e in session.embed(texts)])
    for target in ("cpu", "openvino"):
        with edgewise.load(bundle, target, "int8", 1) as session:
            rounded = np.array([e.vector for e in session.embed(texts)])
        assert (exact * rounded).sum(1).min() >= 0.999
        assert np.abs(exact - rounded).max() > 1e-5  # they are integers at all


def test_no_scale_spans_a_row_where_states_are_pooled(bundle: Path) -> None:
    """Though the chooser was told that it is the fastest."""
    with edgewise.load(bundle, "cpu", "int8", 1) as session:
        kernels = {choice.kernel for choice in session.variant.kernels}
    assert "int8-rows" not in kernels


def test_a_long_text_is_embedded_by_the_mean_of_its_windows(bundle: Path, assert_close: Compare) -> None:
    text = " ".join(WORDS[:16] * 3)  # 48 tokens, where 28 fit: windows of 28, 14 apart
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        words = text.split()
        parts = [" ".join(words[first : first + 28]) for first in (0, 14, 28)]
        vectors = [e.vector.astype(np.float64) for e in session.embed(parts)]
        mean = 28 * vectors[0] + 28 * vectors[1] + 20 * vectors[2]
        found = session.embed(text, overflow="windows")
        assert session.similarity(text, text, overflow="windows")[0, 0] == pytest.approx(1, abs=1e-6)
    assert list(found.tokens) == expected_ids(text)
    assert_close(found.vector, (mean / np.linalg.norm(mean)).astype(np.float32), atol=1e-5)
