"""Runs that sentences join and leave: every step is the reference's, which reads each sentence alone and whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.errors import ContextLengthError
from edgewise.export.portable import portable_graphs
from edgewise.models.transformer import Transformer
from edgewise.runtime.engine import Engine
from edgewise.runtime.engines.onnxruntime_open import OnnxRuntimeOpenRun
from edgewise.runtime.inputs import right_pad

from ..open_model import open_files, write_variant
from ..runtime.torch_engine import TorchEngine
from ..tiny import END, PAD, START, random_sources, tiny_model

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
TARGETS = ("cpu", "openvino")
KINDS = ("encoder-decoder", "decoder")
Pair = tuple[TorchEngine, Engine]
BEAMS = (1, 3)
CAPACITY = 60


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Pair]:
    """By kind and target; a network is exported once for both."""
    found = {}
    for kind in KINDS:
        model = tiny_model(3, kind)  # type: ignore[arg-type]
        portable, folder = portable_graphs(model), tmp_path_factory.mktemp(kind)
        for target in TARGETS:
            files = write_variant(portable, target, "float32", folder / target)
            found[kind, target] = TorchEngine(model), _opened(model, target, files)
    return found


def _opened(model: Transformer, target: str, files: dict[str, Path]) -> Engine:
    return open_files(model, target, "float32", files)


class Driver:
    """The same sentences and random tokens into the reference's run and the engine's."""

    def __init__(self, pair: Pair, beams: int, assert_close: Compare) -> None:
        self.engines, self.beams, self.assert_close = pair, beams, assert_close
        self.runs: list[Any] = [engine.open_run(beams, 7) for engine in pair]
        self.rng = np.random.default_rng(beams)
        self.last: list[int] = []  # of every row that has read nothing but its prompt: the token to come
        self.fresh: list[bool] = []

    def join(self, count: int, tokens: int, longest: int = 9) -> None:
        prompts = self.rng.integers(4, 24, (count, tokens))
        sources = right_pad(random_sources(int(self.rng.integers(99)), count, longest=longest), PAD)
        for engine, run in zip(self.engines, self.runs, strict=True):
            with_encoder = self.engines[0].model.encoder is not None
            run.join(engine.encode_source(*sources) if with_encoder else None, prompts, CAPACITY)
        self.last += prompts[:, -1].tolist()
        self.fresh += [True] * count

    def keep(self, sentences: list[int]) -> None:
        for run in self.runs:
            run.keep(np.array(sentences, np.int64))
        self.last, self.fresh = [self.last[s] for s in sentences], [self.fresh[s] for s in sentences]

    def steps(self, count: int) -> None:
        for _ in range(count):
            self._step()

    def _step(self) -> None:
        rows = np.arange(len(self.fresh) * self.beams)
        sentences = rows // self.beams
        fresh = np.array(self.fresh)[sentences]
        ids = np.where(fresh, np.array(self.last)[sentences], self.rng.integers(3, 24, len(rows)))
        parents = np.where(fresh, rows, sentences * self.beams + self.rng.integers(0, self.beams, len(rows)))
        expected, actual = (run.step(ids, parents) for run in self.runs)
        self.assert_close(actual.log_probs, expected.log_probs, atol=1e-5, rtol=1e-4)
        np.testing.assert_array_equal(actual.ids, expected.ids)
        logits = [run.last_logits() for run in self.runs]
        self.assert_close(logits[1], logits[0])
        self.fresh = [False] * len(self.fresh)


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_sentences_join_and_leave(
    kind: str, target: str, beams: int, engines: dict[tuple[str, str], Pair], assert_close: Compare
) -> None:
    """One by one and in groups, with longer and shorter sources, twice between two steps, into free places."""
    run = Driver(engines[kind, target], beams, assert_close)
    run.join(1, 1, longest=3)
    run.join(2, 1)
    run.steps(4)
    run.join(2, 5, longest=12)
    run.join(1, 1)
    run.steps(2)
    run.keep([0, 5, 2])
    run.steps(2)
    run.keep([0])
    run.join(3, 9, longest=2)
    run.steps(3)
    run.keep([3, 1])
    run.join(1, 1)
    run.steps(2)


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_run_that_is_never_empty_goes_on_for_ever(
    target: str, beams: int, engines: dict[tuple[str, str], Pair], assert_close: Compare
) -> None:
    """Far more steps than any sentence may read: one joins before the one before has left."""
    run = Driver(engines["encoder-decoder", target], beams, assert_close)
    run.join(1, 1)
    for _ in range(8):
        run.steps(11)
        run.join(1, 1)
        run.steps(11)
        run.keep([1])
    run.keep([])
    run.join(2, 1)
    run.steps(3)


def test_mates_of_sources_padded_alike_change_no_bit(engines: dict[tuple[str, str], Pair]) -> None:
    """On the cpu target. OpenVINO's rows stand behind masked places, which may move sums by rounding."""
    engine = engines["encoder-decoder", "cpu"][1]
    sources = [np.array([[token, 9, 8, END]]) for token in (5, 6, 7)]
    tokens = np.random.default_rng(2).integers(3, 24, (9, 3))

    def steps(joining: dict[int, int]) -> list[Any]:
        """Log-probabilities of the last source at every step since it joined; ``joining``: source -> step."""
        run, found = engine.open_run(1, 24), []
        assert run is not None
        order: list[int] = []
        for step in range(9):
            for source, at in joining.items():
                if at == step:
                    run.join(engine.encode_source(sources[source], sources[source] >= 0), np.array([[START]]), 20)
                    order.append(source)
            if order:
                ids = [START if joining[s] == step else int(tokens[step - joining[s], s]) for s in order]
                best = run.step(np.array(ids), np.arange(len(order)))
                if 2 in order:
                    found.append(best.log_probs[order.index(2)].copy())
        return found

    alone, together = steps({2: 4}), steps({0: 0, 1: 2, 2: 4})
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("target", TARGETS)
def test_more_tokens_than_a_sentence_joined_with(target: str, engines: dict[tuple[str, str], Pair]) -> None:
    engine = engines["decoder", target][1]
    run = engine.open_run(1, 2)
    assert run is not None
    with pytest.raises(ContextLengthError, match="4 tokens do not fit the 3 this sentence joined with"):
        run.join(None, np.array([[START, 4, 5, 6]]), 3)
    run.join(None, np.array([[START, 4, 5]]), 3)
    run.step(np.array([5]), np.array([0]))
    with pytest.raises(ContextLengthError, match="4 tokens do not fit the 3 this sentence joined with: let it join"):
        run.step(np.array([6]), np.array([0]))


def test_buffers_are_as_long_as_those_need_who_are_there(engines: dict[tuple[str, str], Pair]) -> None:
    engine = engines["decoder", "cpu"][1]
    run = engine.open_run(1, 2)
    assert isinstance(run, OnnxRuntimeOpenRun)
    run.join(None, np.array([[START], [START]]), 200)
    assert run._buffers.views(slice(0, 2))["key_cache_0"].shape[2] == 256
    run.step(np.array([START, START]), np.arange(2))
    run.keep(np.array([], np.int64))
    run.join(None, np.array([[START]] * 3), 9)
    assert run._buffers.views(slice(0, 3))["key_cache_0"].shape[2] == 64
    run.step(np.array([START] * 3), np.arange(3))
