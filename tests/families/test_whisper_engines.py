"""Whisper's graphs on both engines against ``transformers``: numbers, steps through the cache, beams, integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgewise.export.portable import portable_graphs
from edgewise.export.variants import alignment_layer, variant_graphs
from edgewise.models import decode
from edgewise.models.heard import Heard
from edgewise.models.open import open_checkpoint
from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle import signature as names
from edgewise.runtime.engine import Engine
from edgewise.runtime.search import candidates_needed, finish, search

from ..open_model import open_files, write_variant
from .whisper_folders import CASES, FRAMES, library_whisper, random_features, whisper_folder

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
TARGETS = ("cpu", "openvino")
LIMIT = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: whisper_folder(tmp_path_factory.mktemp("whisper") / "m", case))


@pytest.fixture(scope="module")
def model(folder: Callable[[str], Path]) -> Callable[[str], Transformer]:
    """``model(case)``: the reference."""
    return cache(lambda case: open_checkpoint(folder(case)).model)


@pytest.fixture(scope="module")
def graphs(model: Callable[[str], Transformer]) -> Callable[[str], dict[str, ir.Model]]:
    """``graphs(case)``: the portable form."""
    return cache(lambda case: portable_graphs(model(case)))


@pytest.fixture(scope="module")
def opened(
    model: Callable[[str], Transformer],
    graphs: Callable[[str], dict[str, ir.Model]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Engine]:
    """``opened(case, target, kernel)``: an engine."""

    @cache
    def open_one(case: str, target: str, kernel: str = "float32") -> Engine:
        files = write_variant(graphs(case), target, kernel, tmp_path_factory.mktemp("v") / "v")  # type: ignore[arg-type]
        return open_files(model(case), target, kernel, files)  # type: ignore[arg-type]

    return open_one


def features_of(model: Transformer, batch: int = 3) -> torch.Tensor:
    assert model.config.speech is not None
    return random_features(model.config.speech.bands, batch)


def fed(model: Transformer) -> torch.Tensor:
    return torch.randint(0, model.config.vocab_size, (3, 12), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_engines_give_the_librarys_logits(
    case: str,
    target: str,
    folder: Callable[[str], Path],
    model: Callable[[str], Transformer],
    opened: Callable[..., Engine],
    assert_close: Compare,
) -> None:
    features, ids = features_of(model(case)), fed(model(case))
    expected = library_whisper(folder(case))(features, decoder_input_ids=ids).logits
    engine = opened(case, target)
    logits = engine.decoder_logits(engine.encode_features(features.numpy()), ids.numpy(), np.ones(ids.shape, np.bool_))
    assert_close(logits, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_searches_through_the_cache_are_those_of_the_reference(
    case: str, target: str, beams: int, model: Callable[[str], Transformer], opened: Callable[..., Engine]
) -> None:
    """Every window alone in the reference, all of a batch together on the engine, from a prompt of three tokens."""
    network, engine = model(case), opened(case, target)
    features, config = features_of(network), network.config
    prompt = (config.start_id, 284, 290)
    run = engine.start(
        engine.encode_features(features.numpy()), len(features), beams, 3 + LIMIT, candidates_needed(beams)
    )
    prompts = np.array([prompt] * len(features))
    found = finish(search(run, prompts, [LIMIT] * len(features), config.end_id, beam_size=beams, length_penalty=0.0))
    for window, (best, *_) in zip(features, found, strict=True):
        source = Heard(window, prompt)
        expected = (
            decode.greedy(network, source, LIMIT, 0.0)
            if beams == 1
            else decode.beam(network, source, beams, 0.0, LIMIT)[0]
        )
        assert best.tokens == expected.tokens
        assert best.token_log_probs == pytest.approx(expected.token_log_probs, abs=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_a_window_alone_and_in_a_batch(
    target: str, model: Callable[[str], Transformer], opened: Callable[..., Engine]
) -> None:
    engine, features = opened("several languages", target, "int8-rows"), features_of(model("several languages")).numpy()
    ids = fed(model("several languages")).numpy()
    together = engine.decoder_logits(engine.encode_features(features), ids, np.ones(ids.shape, np.bool_))
    for i, window in enumerate(features):
        alone = engine.decoder_logits(engine.encode_features(window[None]), ids[i : i + 1], np.ones((1, 12), np.bool_))
        np.testing.assert_allclose(alone[0], together[i], atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@torch.no_grad()
def test_integers_are_near_the_library(
    target: str, folder: Callable[[str], Path], model: Callable[[str], Transformer], opened: Callable[..., Engine]
) -> None:
    case = "several languages"
    features, ids, engine = features_of(model(case)), fed(model(case)), opened(case, target, "int8-rows")
    expected = library_whisper(folder(case))(features, decoder_input_ids=ids).logits.numpy()
    logits = engine.decoder_logits(engine.encode_features(features.numpy()), ids.numpy(), np.ones(ids.shape, np.bool_))
    apart = np.sqrt(np.square(logits - expected).mean()) / expected.std()
    assert 1e-6 < apart < 0.05


def test_an_encoder_that_hears_takes_features_alone(graphs: Callable[[str], dict[str, ir.Model]]) -> None:
    portable = graphs("several languages")
    (features,) = portable[names.ENCODER].graph.inputs
    assert features.name == names.FEATURES
    assert list(features.shape or ())[1:] == [8, FRAMES]
    attentions = [node for node in portable[names.ENCODER].graph if node.op_type == "Attention"]
    assert len(attentions) == 2
    assert all(len(node.inputs) == 3 or node.inputs[3] is None for node in attentions)


def test_nothing_is_aligned_with_speech(graphs: Callable[[str], dict[str, ir.Model]]) -> None:
    portable = graphs("several languages")
    assert alignment_layer(portable) is None
    assert names.ALIGNMENT not in variant_graphs(portable, "cpu").keys() | variant_graphs(portable, "openvino").keys()
