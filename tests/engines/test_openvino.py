"""OpenVINO against the PyTorch reference: every call of the engine, and what must not pass in silence."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.errors import ContextLengthError, EngineError, MissingExtraError, TargetError
from edgewise.export.portable import export_portable
from edgewise.models.transformer import Transformer
from edgewise.runtime.engine import Ids
from edgewise.runtime.engines.openvino import OpenVinoEngine
from edgewise.runtime.results import TokenHypothesis
from edgewise.runtime.search import candidates_needed, finish, search

from ..runtime.torch_engine import TorchEngine
from ..tiny import END, PAD, START, random_sources, tiny_model

pytestmark = pytest.mark.slow
Compare = Callable[..., None]


def _export(model: Transformer, folder: Path) -> OpenVinoEngine:
    return _open(export_portable(model, folder))


def _open(files: dict[str, Path], device: str = "CPU") -> OpenVinoEngine:
    return OpenVinoEngine(files, device, "fp32", threads=1)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchEngine, OpenVinoEngine]:
    model = tiny_model(3)
    return TorchEngine(model), _export(model, tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchEngine, OpenVinoEngine]:
    model = tiny_model(4, "decoder")
    return TorchEngine(model), _export(model, tmp_path_factory.mktemp("writer"))


def _padded(sentences: list[list[int]]) -> tuple[Ids, Any]:
    length = max(map(len, sentences))
    ids = np.array([s + [PAD] * (length - len(s)) for s in sentences], np.int64)
    return ids, ids != PAD


def _assert_same_call(actual: Any, expected: Any, assert_close: Compare) -> None:
    assert_close(actual.log_probs, expected.log_probs, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(actual.ids, expected.ids)


def _compare_runs(runs: Any, prompt: Ids, beams: int, steps: int, assert_close: Compare) -> None:
    """Drive both runs with the same random tokens and parents."""
    rng = np.random.default_rng(beams)
    reference, run = runs
    _assert_same_call(run.prefill(prompt), reference.prefill(prompt), assert_close)
    assert_close(run.last_logits(), reference.last_logits())
    rows = len(prompt) * beams
    for _ in range(steps):
        ids = rng.integers(3, 24, rows)
        parents = np.arange(rows) // beams * beams + rng.integers(0, beams, rows)
        _assert_same_call(run.step(ids, parents), reference.step(ids, parents), assert_close)
        assert_close(run.last_logits(), reference.last_logits())


@pytest.mark.parametrize(("batch", "beams", "prompt"), [(1, 1, 1), (3, 1, 1), (1, 5, 1), (3, 4, 1), (2, 3, 5)], ids=str)
def test_encoder_decoder_run(
    batch: int, beams: int, prompt: int, translator: tuple[Any, Any], assert_close: Compare
) -> None:
    ids, mask = _padded(random_sources(batch, batch))
    runs = [e.start(e.encode_source(ids, mask), batch, beams, 40, 7) for e in translator]
    prompts = np.random.default_rng(1).integers(3, 24, (batch, prompt))
    _compare_runs(runs, prompts, beams, 12, assert_close)


@pytest.mark.parametrize(("batch", "beams", "prompt"), [(1, 1, 1), (2, 1, 9), (2, 5, 3)], ids=str)
def test_decoder_only_run(batch: int, beams: int, prompt: int, writer: tuple[Any, Any], assert_close: Compare) -> None:
    runs = [e.start(None, batch, beams, 40, 7) for e in writer]
    prompts = np.random.default_rng(2).integers(3, 24, (batch, prompt))
    _compare_runs(runs, prompts, beams, 12, assert_close)


def test_more_candidates_than_words_are_all_words(translator: tuple[Any, Any], assert_close: Compare) -> None:
    ids, mask = _padded([[5, 6, END]])
    runs = [e.start(e.encode_source(ids, mask), 1, 1, 40, 99) for e in translator]
    _compare_runs(runs, np.array([[START]]), 1, 1, assert_close)


def test_requests_return_to_the_pool_clean(translator: tuple[Any, OpenVinoEngine]) -> None:
    _, engine = translator
    memory = engine.encode_source(*_padded([[5, 6, END]]))
    first = engine.start(memory, 1, 2, 40, 5).prefill(np.array([[START]]))
    dirty = engine.start(memory, 1, 4, 40, 3)
    dirty.prefill(np.array([[START, 7, 8]]))
    dirty.step(np.array([4, 5, 6, 7]), np.array([0, 0, 0, 0]))
    del dirty
    again = engine.start(memory, 1, 2, 40, 5).prefill(np.array([[START]]))
    np.testing.assert_array_equal(again.log_probs, first.log_probs)


@pytest.mark.parametrize(("vocab_size", "k"), [(24, 24), (32, 5), (200, 1), (200, 12), (1000, 40)], ids=str)
def test_equal_scores_come_by_lower_id(vocab_size: int, k: int, tmp_path: Path) -> None:
    """Few different scores, so that the best are ties within and across the blocks that selection looks at."""
    model = tiny_model(5, "decoder", vocab_size=vocab_size)
    generator = torch.Generator().manual_seed(k)
    with torch.no_grad():
        model.embedding.weight.zero_()
        assert model.vocabulary_bias is not None
        model.vocabulary_bias.copy_(torch.randint(0, 30, (vocab_size,), generator=generator) / 10)
    expected = model.vocabulary_bias.log_softmax(-1).sort(descending=True, stable=True)
    best = _export(model, tmp_path).start(None, 1, 1, 8, k).prefill(np.array([[START]]))
    assert best.ids[0].tolist() == expected.indices[:k].tolist()
    np.testing.assert_allclose(best.log_probs[0], expected.values[:k].detach().numpy(), atol=1e-5)


# --- one pass ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(1,), (7,), (6, 2, 9)], ids=str)
def test_decoder_logits(lengths: tuple[int, ...], translator: tuple[Any, Any], assert_close: Compare) -> None:
    rng = np.random.default_rng(3)
    sources = _padded(random_sources(8, len(lengths)))
    ids, mask = _padded([rng.integers(3, 24, n).tolist() for n in lengths])
    expected, actual = (e.decoder_logits(e.encode_source(*sources), ids, mask) for e in translator)
    for i, n in enumerate(lengths):
        assert_close(actual[i, :n], expected[i, :n])


def test_decoder_logits_without_encoder(writer: tuple[Any, Any], assert_close: Compare) -> None:
    ids, mask = _padded([[1, 4, 5], [1, 7, 8]])
    expected, actual = (e.decoder_logits(None, ids, mask) for e in writer)
    assert_close(actual, expected)


@pytest.mark.parametrize("class_names", [(), ("bad", "good")], ids=["words", "classes"])
def test_encoder_alone(class_names: tuple[str, ...], tmp_path: Path, assert_close: Compare) -> None:
    model = tiny_model(6, "encoder", class_names=class_names)
    reference, engine = TorchEngine(model), _export(model, tmp_path)
    ids, mask = _padded([[4, 5, 6, END], [7, END]])
    for index in (None, np.array([[1, 3], [0, 1]])):
        expected, actual = (e.encode(ids, mask, index) for e in (reference, engine))
        for got, want in zip(actual, expected, strict=True):
            assert_close(got, want)


# --- whole searches ---------------------------------------------------------------------------------------------------


def _translate(engine: Any, sources: list[list[int]], beams: int) -> list[list[TokenHypothesis]]:
    memory = engine.encode_source(*_padded(sources))
    run = engine.start(memory, len(sources), beams, 20, candidates_needed(beams))
    prompts = np.full((len(sources), 1), START)
    return finish(search(run, prompts, [20] * len(sources), END, beam_size=beams, n_best=beams))


@pytest.mark.parametrize("beams", [1, 4])
def test_search_finds_the_same(beams: int, translator: tuple[Any, Any]) -> None:
    sources = random_sources(9, 6)
    expected, actual = (_translate(engine, sources, beams) for engine in translator)
    assert [[h.tokens for h in row] for row in actual] == [[h.tokens for h in row] for row in expected]
    for ours, theirs in zip(actual, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-4)


def test_threads_get_what_each_would_alone(translator: tuple[Any, OpenVinoEngine]) -> None:
    engine = translator[1]
    work = [(random_sources(seed, 1 + seed % 3), 1 + seed % 4) for seed in range(16)]
    alone = [_translate(engine, *item) for item in work]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda item: _translate(engine, *item), work))
    assert together == alone


def test_a_row_does_not_depend_on_its_batch(translator: tuple[Any, OpenVinoEngine]) -> None:
    engine = translator[1]
    sources = [[5, 6, 7, END], [9, 8, 4, END], [11, 12, 13, END]]
    together = _translate(engine, sources, 3)
    assert [_translate(engine, [source], 3)[0] for source in sources] == together


# --- what must not pass in silence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("parameter", ["decoder.layers.0.feed_forward.outer.weight", "vocabulary_bias"])
def test_weights_that_are_not_numbers(parameter: str, value: float, tmp_path: Path) -> None:
    model = tiny_model(7)
    with torch.no_grad():
        dict(model.named_parameters())[parameter].view(-1)[7] = value
    engine = _export(model, tmp_path)
    memory = engine.encode_source(*_padded([[5, END]]))
    run = engine.start(memory, 1, 1, 8, 3)
    with pytest.raises(EngineError, match="log-probabilities that are not numbers"):
        run.prefill(np.array([[START]]))
    with pytest.raises(EngineError, match="logits that are not numbers"):
        engine.decoder_logits(memory, np.array([[START]]), np.array([[True]]))


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_a_device_that_is_absent(device: str, translator: tuple[Any, Any], tmp_path: Path) -> None:
    import openvino

    if any(name.startswith(device) for name in openvino.Core().available_devices):
        pytest.skip(f"this machine has a {device}")
    with pytest.raises(TargetError, match=f"finds no {device} on this machine, only CPU: choose one of these"):
        _open({}, device)


def test_openvino_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "openvino":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgewise\[openvino\]'"):
        _open({})


def test_a_graph_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "encoder.onnx"
    file.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"could not compile encoder\.onnx for CPU"):
        _open({"encoder": file})


def test_more_tokens_than_capacity(writer: tuple[Any, Any]) -> None:
    run = writer[1].start(None, 1, 1, 3, 2)
    run.prefill(np.array([[START, 4, 5]]))
    with pytest.raises(ContextLengthError, match="4 tokens do not fit the 3"):
        run.step(np.array([6]), np.array([0]))


def test_precision_is_pinned(translator: tuple[Any, OpenVinoEngine]) -> None:
    engine = translator[1]
    for pool in (engine._encoder, engine._decoder):
        assert pool is not None
        compiled = pool._compiled
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.get_property("KV_CACHE_PRECISION").to_string() == "f32"
        assert int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 0
        assert int(compiled.get_property("INFERENCE_NUM_THREADS")) == 1


def test_only_int8_variants_quantize_activations(tmp_path: Path) -> None:
    files = export_portable(tiny_model(8, "encoder"), tmp_path)
    engine = OpenVinoEngine(files, "CPU", "int8", 1)
    assert engine._encoder is not None
    assert int(engine._encoder._compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 32
    assert engine.describe()["arithmetic"] == "f32, int8 products"


def test_describe(translator: tuple[Any, OpenVinoEngine]) -> None:
    import openvino

    said = translator[1].describe()
    assert said["version"] == openvino.get_version()
    assert {k: said[k] for k in ("engine", "device", "threads")} == {
        "engine": "openvino",
        "device": "CPU",
        "threads": 1,
    }
