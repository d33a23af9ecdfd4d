"""The choice of candidates: the best log-probabilities over the whole vocabulary, of equals the lower id first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from edgewise.export.passes.candidates import choose_candidates
from edgewise.runtime.bundle import signature as names

from .conftest import compute

Compare = Callable[..., None]
Floats = NDArray[np.float32]


def _graph(rank: int, vocabulary: int) -> ir.Model:
    """A graph that gives the ``logits (rows, V)`` or ``(rows, picks, V)`` it is given."""
    shape = ir.Shape((*("rows", "picks")[: rank - 1], vocabulary))
    given = ir.Value(name="given", type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    node = ir.node("Identity", [given])
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = names.LOGITS, shape, given.type
    graph = ir.Graph([given], [node.outputs[0]], nodes=[node], opset_imports={"": 24}, name="scores")
    return ir.Model(graph, ir_version=10)


def _choose(logits: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
    model = choose_candidates(_graph(logits.ndim, logits.shape[-1]))
    outputs = compute(model, {"given": logits, names.TOP_COUNT: np.array([k], np.int64)})
    np.testing.assert_array_equal(outputs[names.LOGITS], logits)
    return outputs[names.TOP_LOG_PROBS], outputs[names.TOP_IDS]


def _assert_best(logits: Floats, k: int, assert_close: Compare) -> None:
    expected = torch.from_numpy(logits).log_softmax(-1).sort(descending=True, stable=True)
    log_probs, ids = _choose(logits, k)
    np.testing.assert_array_equal(ids, expected.indices[..., :k].numpy())
    assert_close(log_probs, expected.values[..., :k].contiguous())


@pytest.mark.parametrize(("vocabulary", "k"), [(1, 1), (24, 1), (24, 24), (200, 12), (8000, 1), (8000, 10)], ids=str)
def test_log_softmax_over_the_vocabulary(vocabulary: int, k: int, assert_close: Compare) -> None:
    logits = np.random.default_rng(k).standard_normal((5, vocabulary)).astype(np.float32) * 10
    _assert_best(logits, k, assert_close)


def test_several_positions_a_row(assert_close: Compare) -> None:
    logits = np.random.default_rng(1).standard_normal((3, 4, 50)).astype(np.float32)
    _assert_best(logits, 7, assert_close)


@pytest.mark.parametrize(("vocabulary", "k"), [(24, 5), (24, 24), (1000, 1), (1000, 12), (8000, 200)], ids=str)
def test_of_equals_the_lower_id(vocabulary: int, k: int, assert_close: Compare) -> None:
    logits = np.random.default_rng(k).integers(0, 4, (6, vocabulary)).astype(np.float32)
    _assert_best(logits, k, assert_close)


def test_all_equal() -> None:
    log_probs, ids = _choose(np.full((1, 1024), 3.0, np.float32), 4)
    assert ids.tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(log_probs, -np.log(1024), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e4, 1e30])
def test_no_overflow(scale: float, assert_close: Compare) -> None:
    _assert_best(np.array([[1, -1, 0.5, 0.25]], np.float32) * np.float32(scale), 4, assert_close)


@pytest.mark.parametrize("place", [0, 7, 99])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_makes_its_row_nan_and_no_other(value: float, place: int, assert_close: Compare) -> None:
    logits = np.random.default_rng(2).standard_normal((3, 100)).astype(np.float32)
    damaged = logits.copy()
    damaged[1, place] = value
    log_probs, _ = _choose(damaged, 10)
    assert np.isnan(log_probs[1]).any()
    whole, _ = _choose(logits, 10)
    np.testing.assert_array_equal(log_probs[[0, 2]], whole[[0, 2]])


def test_a_row_does_not_depend_on_its_batch() -> None:
    logits = np.random.default_rng(3).standard_normal((40, 100)).astype(np.float32)
    together, _ = _choose(logits, 3)
    for rows in (1, 2, 3, 5, 9, 11, 16):
        np.testing.assert_array_equal(_choose(logits[:rows], 3)[0], together[:rows])
