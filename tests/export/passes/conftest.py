"""Random inputs for any graph, and running a graph that is in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from ..conftest import Arrays, Exported

Sizes = dict[str, int]
_BELOW = {"ids": 29, "positions": 80}


def session_of(model: ir.Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = ir.serde.serialize_model(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def compute(model: ir.Model, inputs: Arrays) -> Arrays:
    """All outputs by name, of those ``inputs`` that the graph has."""
    session = session_of(model)
    outputs = [value.name for value in session.get_outputs()]
    feeds = {value.name: inputs[value.name] for value in session.get_inputs()}
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))


def random_inputs(model: ir.Model, sizes: Sizes, seed: int = 0) -> Arrays:
    """Numbers for every input; ``sizes`` has the length of every named dimension. Masks keep their first place."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for value in model.graph.inputs:
        assert value.name is not None
        assert value.shape is not None
        shape = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape]
        arrays[value.name] = _random(rng, value.name, value.dtype, shape, sizes)
    return arrays


def _random(
    rng: np.random.Generator, name: str, dtype: ir.DataType | None, shape: list[int], sizes: Sizes
) -> NDArray[Any]:
    if dtype == ir.DataType.BOOL:
        mask = rng.random(shape) < 0.7
        mask[:, 0] = True
        return mask
    if dtype == ir.DataType.INT64:
        return rng.integers(0, _BELOW.get(name, sizes.get("tokens", 1)), shape)
    return rng.standard_normal(shape).astype(np.float32)


def decoder_sizes(batch: int, beams: int, tokens: int, past: int, source: int = 6) -> Sizes:
    """Lengths of the portable decoder's dimensions."""
    rows = batch * beams
    picks = min(tokens, 2)
    return {
        "batch": batch,
        "rows": rows,
        "tokens": tokens,
        "past": past,
        "keys": past + tokens,
        "source": source,
        "picks": picks,
    }


@pytest.fixture
def portable(exported: Callable[[str], Exported]) -> Callable[[str, str], ir.Model]:
    """``portable(network, graph)``: a portable graph that a test may rewrite."""
    return lambda network, graph: ir.load(exported(network).files[graph])
