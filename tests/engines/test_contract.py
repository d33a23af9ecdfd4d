"""What every engine promises, against the PyTorch reference: runs, beams, candidates, one pass, threads, damage."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgewise.errors import ContextLengthError, EngineError
from edgewise.export.portable import portable_graphs
from edgewise.models.transformer import Transformer
from edgewise.runtime.engine import Engine, Ids
from edgewise.runtime.results import TokenHypothesis
from edgewise.runtime.search import candidates_needed, finish, search

from ..open_model import open_files, write_variant
from ..runtime.torch_engine import TorchEngine
from ..tiny import END, PAD, START, random_sources, tiny_model

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
TARGETS = ("cpu", "openvino")
Pair = tuple[TorchEngine, Engine]


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _pair(model: Transformer, target: str, folder: Path) -> Pair:
    """The reference, and the engine to be judged."""
    return TorchEngine(model), open_files(model, target, "float32", _files(model, target, folder))


def _files(model: Transformer, target: str, folder: Path) -> dict[str, Path]:
    """The graphs of a variant; a network is exported once for both targets, which is what takes long."""
    key = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
    if key not in _exported:
        _exported[key] = portable_graphs(model)
    return write_variant(_exported[key], target, "float32", folder / target)


_exported: dict[bytes, dict[str, ir.Model]] = {}


@pytest.fixture(scope="module")
def translator(target: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _pair(tiny_model(3), target, tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def writer(target: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _pair(tiny_model(4, "decoder"), target, tmp_path_factory.mktemp("writer"))


def _padded(sentences: list[list[int]]) -> tuple[Ids, Any]:
    length = max(map(len, sentences))
    ids = np.array([s + [PAD] * (length - len(s)) for s in sentences], np.int64)
    return ids, ids != PAD


def _assert_same_call(actual: Any, expected: Any, assert_close: Compare) -> None:
    assert_close(actual.log_probs, expected.log_probs, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(actual.ids, expected.ids)


def _compare_runs(runs: Any, prompt: Ids, beams: int, steps: int, assert_close: Compare) -> None:
    """Drive both runs with the same random tokens and parents."""
    reference, run = runs
    _assert_same_call(run.prefill(prompt), reference.prefill(prompt), assert_close)
    assert_close(run.last_logits(), reference.last_logits())
    _compare_steps(runs, len(prompt), beams, steps, assert_close)


def _compare_steps(runs: Any, sentences: int, beams: int, steps: int, assert_close: Compare) -> None:
    rng = np.random.default_rng(beams)
    reference, run = runs
    rows = sentences * beams
    for _ in range(steps):
        ids = rng.integers(3, 24, rows)
        parents = np.arange(rows) // beams * beams + rng.integers(0, beams, rows)
        _assert_same_call(run.step(ids, parents), reference.step(ids, parents), assert_close)
        assert_close(run.last_logits(), reference.last_logits())


@pytest.mark.parametrize(("batch", "beams", "prompt"), [(1, 1, 1), (3, 1, 1), (1, 5, 1), (3, 4, 1), (2, 3, 5)], ids=str)
def test_encoder_decoder_run(batch: int, beams: int, prompt: int, translator: Pair, assert_close: Compare) -> None:
    ids, mask = _padded(random_sources(batch, batch))
    runs = [e.start(e.encode_source(ids, mask), batch, beams, 40, 7) for e in translator]
    prompts = np.random.default_rng(1).integers(3, 24, (batch, prompt))
    _compare_runs(runs, prompts, beams, 12, assert_close)


@pytest.mark.parametrize(("batch", "beams", "prompt"), [(1, 1, 1), (2, 1, 9), (2, 5, 3)], ids=str)
def test_decoder_only_run(batch: int, beams: int, prompt: int, writer: Pair, assert_close: Compare) -> None:
    runs = [e.start(None, batch, beams, 40, 7) for e in writer]
    prompts = np.random.default_rng(2).integers(3, 24, (batch, prompt))
    _compare_runs(runs, prompts, beams, 12, assert_close)


@pytest.mark.parametrize("beams", [1, 3])
def test_sentences_leave_between_steps(beams: int, translator: Pair, assert_close: Compare) -> None:
    ids, mask = _padded(random_sources(4, 7))
    _compare_leaving(translator, [e.encode_source(ids, mask) for e in translator], beams, assert_close)


@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_leave_between_steps(beams: int, writer: Pair, assert_close: Compare) -> None:
    _compare_leaving(writer, [None, None], beams, assert_close)


def _compare_leaving(engines: Pair, memories: list[Any], beams: int, assert_close: Compare) -> None:
    """Some leave right after the prefill, some twice in a row, all but one in the end; then the buffers serve again."""
    runs, later = ([e.start(m, 7, beams, 40, 7) for e, m in zip(engines, memories, strict=True)] for _ in range(2))
    prompt = np.random.default_rng(5).integers(3, 24, (7, 3))
    _compare_runs(runs, prompt, beams, 0, assert_close)
    for kept in ([0, 6, 2, 3, 4], [0, 1, 2, 4], [3, 1], [0, 1], [1]):
        for run in runs:
            run.keep(np.array(kept))
        if len(kept) != 4:
            _compare_steps(runs, len(kept), beams, 4, assert_close)
    _compare_runs(later, prompt, beams, 4, assert_close)


def test_more_candidates_than_words_are_all_words(translator: Pair, assert_close: Compare) -> None:
    ids, mask = _padded([[5, 6, END]])
    runs = [e.start(e.encode_source(ids, mask), 1, 1, 40, 99) for e in translator]
    _compare_runs(runs, np.array([[START]]), 1, 1, assert_close)


def test_requests_return_to_the_pool_clean(translator: Pair) -> None:
    _, engine = translator
    memory = engine.encode_source(*_padded([[5, 6, END]]))
    first = engine.start(memory, 1, 2, 40, 5).prefill(np.array([[START]]))
    dirty = engine.start(memory, 1, 4, 40, 3)
    dirty.prefill(np.array([[START, 7, 8]]))
    dirty.step(np.array([4, 5, 6, 7]), np.array([0, 0, 0, 0]))
    del dirty
    again = engine.start(memory, 1, 2, 40, 5).prefill(np.array([[START]]))
    np.testing.assert_array_equal(again.log_probs, first.log_probs)


@pytest.mark.parametrize(("vocab_size", "k"), [(24, 24), (200, 1), (1000, 40)], ids=str)
def test_equal_scores_come_by_lower_id(vocab_size: int, k: int, target: str, tmp_path: Path) -> None:
    """Few different scores, so that the best are ties within and across the blocks that selection looks at."""
    model = tiny_model(5, "decoder", vocab_size=vocab_size)
    generator = torch.Generator().manual_seed(k)
    with torch.no_grad():
        model.embedding.weight.zero_()
        assert model.vocabulary_bias is not None
        model.vocabulary_bias.copy_(torch.randint(0, 30, (vocab_size,), generator=generator) / 10)
    expected = model.vocabulary_bias.log_softmax(-1).sort(descending=True, stable=True)
    best = _pair(model, target, tmp_path)[1].start(None, 1, 1, 8, k).prefill(np.array([[START]]))
    assert best.ids[0].tolist() == expected.indices[:k].tolist()
    np.testing.assert_allclose(best.log_probs[0], expected.values[:k].detach().numpy(), atol=1e-5)


# --- one pass ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(1,), (7,), (6, 2, 9)], ids=str)
def test_decoder_logits(lengths: tuple[int, ...], translator: Pair, assert_close: Compare) -> None:
    rng = np.random.default_rng(3)
    sources = _padded(random_sources(8, len(lengths)))
    ids, mask = _padded([rng.integers(3, 24, n).tolist() for n in lengths])
    expected, actual = (e.decoder_logits(e.encode_source(*sources), ids, mask) for e in translator)
    for i, n in enumerate(lengths):
        assert_close(actual[i, :n], expected[i, :n])


def test_decoder_logits_without_encoder(writer: Pair, assert_close: Compare) -> None:
    ids, mask = _padded([[1, 4, 5], [1, 7, 8]])
    expected, actual = (e.decoder_logits(None, ids, mask) for e in writer)
    assert_close(actual, expected)


def test_cross_attention(translator: Pair, assert_close: Compare) -> None:
    """Rows look at the sentence that each names, in any order and more than once."""
    sources = random_sources(8, 3)
    ids, _ = _padded([[START, 4, 9, 7], [START, 5], [START], [START, 11, 12]])
    places = np.array([2, 0, 0, 1])
    expected, actual = (e.cross_attention(e.encode_source(*_padded(sources)), places, ids) for e in translator)
    assert_close(actual, expected, atol=1e-5)
    for row, place in enumerate(places):
        assert not actual[row, :, len(sources[place]) :].any()
        np.testing.assert_allclose(actual[row].sum(-1), 1.0, atol=1e-5)


def test_threads_that_first_ask_for_attention_at_once(target: str, tmp_path: Path) -> None:
    engine = _pair(tiny_model(3), target, tmp_path)[1]
    memory, ids = engine.encode_source(*_padded([[5, 6, END]])), np.array([[START, 7, 8]])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: engine.cross_attention(memory, np.array([0]), ids), range(8)))
    for weights in found[1:]:
        np.testing.assert_array_equal(weights, found[0])


@pytest.mark.parametrize("class_names", [(), ("bad", "good")], ids=["words", "classes"])
def test_encoder_alone(class_names: tuple[str, ...], target: str, tmp_path: Path, assert_close: Compare) -> None:
    reference, engine = _pair(tiny_model(6, "encoder", class_names=class_names), target, tmp_path)
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
def test_search_finds_the_same(beams: int, translator: Pair) -> None:
    sources = random_sources(9, 6)
    expected, actual = (_translate(engine, sources, beams) for engine in translator)
    assert [[h.tokens for h in row] for row in actual] == [[h.tokens for h in row] for row in expected]
    for ours, theirs in zip(actual, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-4)


def test_threads_get_what_each_would_alone(translator: Pair) -> None:
    engine = translator[1]
    work = [(random_sources(seed, 1 + seed % 3), 1 + seed % 4) for seed in range(16)]
    alone = [_translate(engine, *item) for item in work]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda item: _translate(engine, *item), work))
    assert together == alone


def test_a_row_does_not_depend_on_its_batch(translator: Pair) -> None:
    engine = translator[1]
    sources = [[5, 6, 7, END], [9, 8, 4, END], [11, 12, 13, END]]
    together = _translate(engine, sources, 3)
    assert [_translate(engine, [source], 3)[0] for source in sources] == together


# --- what must not pass in silence ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("decoder.layers.0.feed_forward.outer.weight", float("nan")), ("vocabulary_bias", float("inf"))],
    ids=["NaN in a matrix", "infinity in the last bias"],
)
def test_weights_that_are_not_numbers(parameter: str, value: float, target: str, tmp_path: Path) -> None:
    model = tiny_model(7)
    with torch.no_grad():
        dict(model.named_parameters())[parameter].view(-1)[7] = value
    engine = _pair(model, target, tmp_path)[1]
    memory = engine.encode_source(*_padded([[5, END]]))
    run = engine.start(memory, 1, 1, 8, 3)
    with pytest.raises(EngineError, match="log-probabilities that are not numbers"):
        run.prefill(np.array([[START]]))
    with pytest.raises(EngineError, match="logits that are not numbers"):
        engine.decoder_logits(memory, np.array([[START]]), np.array([[True]]))
    if parameter.startswith("decoder."):  # what comes after the last layer's attention is not seen
        with pytest.raises(EngineError, match="attention weights that are not numbers"):
            engine.cross_attention(memory, np.array([0]), np.array([[START]]))


def test_more_tokens_than_capacity(writer: Pair) -> None:
    run = writer[1].start(None, 1, 1, 3, 2)
    run.prefill(np.array([[START, 4, 5]]))
    with pytest.raises(ContextLengthError, match="4 tokens do not fit the 3"):
        run.step(np.array([6]), np.array([0]))
    with pytest.raises(ContextLengthError, match="4 tokens do not fit the 3 this run was started for: start it with"):
        writer[1].start(None, 1, 1, 3, 2).prefill(np.array([[START, 4, 5, 6]]))
