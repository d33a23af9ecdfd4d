"""What is ONNX Runtime's own on the CPU. What all engines share: ``test_contract.py``."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgewise.errors import EngineError
from edgewise.export.portable import portable_graphs
from edgewise.runtime.bundle.manifest import CacheSpec
from edgewise.runtime.engine import places_kept
from edgewise.runtime.engines import onnxruntime_cpu, saturation
from edgewise.runtime.engines.onnxruntime_cpu import OnnxRuntimeEngine, new_caches

from ..open_model import open_files, write_variant
from ..tiny import START, tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    portable = portable_graphs(tiny_model(4, "decoder"))
    return write_variant(portable, "cpu", "float32", tmp_path_factory.mktemp("cpu") / "graphs")


@pytest.fixture
def engine(files: dict[str, Path]) -> OnnxRuntimeEngine:
    opened = open_files(tiny_model(4, "decoder"), "cpu", "float32", files)
    assert isinstance(opened, OnnxRuntimeEngine)
    return opened


def test_prefill_is_opened_when_first_wanted_and_once(engine: OnnxRuntimeEngine) -> None:
    assert set(engine._sessions) == {"step"}
    with ThreadPoolExecutor(4) as pool:
        sessions = set(pool.map(lambda _: engine.session("prefill"), range(8)))
    assert len(sessions) == 1


def test_a_prompt_of_one_token_needs_no_prefill(engine: OnnxRuntimeEngine) -> None:
    engine.start(None, 2, 3, 4, 2).prefill(np.array([[START], [5]]))
    assert set(engine._sessions) == {"step"}


def test_sentences_that_leave_leave_nothing_behind(engine: OnnxRuntimeEngine) -> None:
    """However the batches of a session shrink, what it keeps is what it may keep."""
    kinds = (onnxruntime_cpu._Step, onnxruntime_cpu._Call)

    def run(seed: int) -> None:
        rng = np.random.default_rng(seed)
        made = engine.start(None, 12, 1, 8, 2)
        made.prefill(np.full((12, 1), START))
        left = 12
        while left > 1:
            live = rng.random(left) < 0.7
            live[0] = True
            made.keep(places_kept(live))
            left = int(live.sum())

    def count() -> int:
        gc.collect()
        return sum(type(thing) in kinds for thing in gc.get_objects())

    run(0)
    before = count()
    for seed in range(1, 20):
        run(seed)
    assert count() == before


def test_prefill_and_steps_give_what_steps_alone_give(engine: OnnxRuntimeEngine) -> None:
    """The prompt in one call, or token by token through the step graph."""
    prompt = np.array([[START, 5, 6, 7], [START, 9, 8, 4]])
    at_once = engine.start(None, 2, 1, 8, 3)
    best = at_once.prefill(prompt)
    one_by_one = engine.start(None, 2, 1, 8, 3)
    one_by_one.prefill(prompt[:, :1])
    for t in range(1, 4):
        again = one_by_one.step(prompt[:, t], np.arange(2))
    np.testing.assert_allclose(again.log_probs, best.log_probs, atol=1e-5)
    np.testing.assert_array_equal(again.ids, best.ids)


def test_the_buffers_are_as_large_as_asked() -> None:
    caches = new_caches(CacheSpec(layout="shared-buffer", layers=2, heads=3, head_dim=8), 4, 7)
    assert {name: buffer.shape for name, buffer in caches.items()} == dict.fromkeys(
        ("key_cache_0", "value_cache_0", "key_cache_1", "value_cache_1"), (4, 3, 7, 8)
    )


def _decode(engine: OnnxRuntimeEngine, first: int, steps: int = 3) -> list[Any]:
    """Log-probabilities along a fixed path of three beams."""
    run = engine.start(None, 2, 3, 8, 4)
    best = run.prefill(np.array([[START, first], [START, 9]]))
    parents = np.array([2, 0, 1, 5, 5, 3])
    later = [run.step(np.arange(6) + t + 3, parents).log_probs.tolist() for t in range(steps)]
    return [best.log_probs.tolist(), *later]


def test_a_later_run_takes_over_the_buffers_and_not_what_is_in_them(engine: OnnxRuntimeEngine) -> None:
    first = _decode(engine, 5)
    _decode(engine, 17, steps=5)
    [[step]] = engine._idle.values()
    for buffer in step.caches.values():
        buffer.fill(np.nan)
    step.indirection.fill(2)
    assert _decode(engine, 5) == first
    assert list(engine._idle.values()) == [[step]]


def test_runs_at_the_same_time_have_their_own(engine: OnnxRuntimeEngine) -> None:
    alone = _decode(engine, 5)
    other = engine.start(None, 2, 3, 8, 4)
    other.prefill(np.array([[START, 20], [START, 21]]))
    assert _decode(engine, 5) == alone
    del other
    assert sum(map(len, engine._idle.values())) == 2


def test_large_buffers_are_not_kept(engine: OnnxRuntimeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_cpu, "_LARGEST_KEPT", 100)
    _decode(engine, 5)
    assert not any(engine._idle.values())


def test_no_more_than_a_few_are_kept(engine: OnnxRuntimeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_cpu, "_MOST_KEPT", 2)
    runs = [engine.start(None, 1, 1, 8, beams) for beams in (1, 2, 3, 4)]
    del runs
    assert sum(map(len, engine._idle.values())) == 2


def test_describe(engine: OnnxRuntimeEngine) -> None:
    expected = {"engine": "onnxruntime", "version": onnxruntime.__version__, "device": "CPU", "threads": 1}
    assert engine.describe() == expected


def test_a_graph_that_is_none(engine: OnnxRuntimeEngine, tmp_path: Path) -> None:
    file = tmp_path / "step.onnx"
    file.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"ONNX Runtime 1\.\S+ could not open step\.onnx: "):
        OnnxRuntimeEngine({"step": file}, engine.cache, engine.vocabulary, 1)


def test_a_token_beyond_the_vocabulary(engine: OnnxRuntimeEngine) -> None:
    with pytest.raises(EngineError, match=r"could not run a graph: .*indices element out of data bounds"):
        engine.start(None, 1, 1, 4, 2).prefill(np.array([[24]]))


def test_a_source_beyond_the_vocabulary(tmp_path: Path) -> None:
    model = tiny_model(6, "encoder")
    files = write_variant(portable_graphs(model), "cpu", "float32", tmp_path / "graphs")
    encoder = open_files(model, "cpu", "float32", files)
    with pytest.raises(EngineError, match="could not run the encoder: "):
        encoder.encode(np.array([[99]]), np.array([[True]]), None)


@pytest.mark.parametrize(
    ("kernel", "refused"),
    [("float32", False), ("int8-weights", False), ("int8-blocks", False), ("int8-rows", True), ("int8-tensor", True)],
)
def test_products_that_saturate_are_refused_before_a_graph_is_opened(
    kernel: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saturation, "_largest_sum", lambda: 32767)
    monkeypatch.setattr(onnxruntime_cpu, "OnnxRuntimeEngine", lambda *_: "opened")

    variant: Any = SimpleNamespace(kernels=[SimpleNamespace(kernel=kernel)], graphs={}, cache=None)
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(model=SimpleNamespace(vocab_size=24)))
    if refused:
        with pytest.raises(EngineError, match="int8 products saturate on this processor"):
            onnxruntime_cpu.open_variant(bundle, variant, 1)
    else:
        assert onnxruntime_cpu.open_variant(bundle, variant, 1) == "opened"  # type: ignore[comparison-overlap]
