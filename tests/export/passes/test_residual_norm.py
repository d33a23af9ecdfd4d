"""Bias, residual and normalization in one kernel: the same numbers wherever the pattern occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx_ir as ir
import pytest

from edgewise.export.passes.patterns import copy_of, finish
from edgewise.export.passes.residual_norm import fuse_residual_norm

from ..conftest import NETWORKS
from .conftest import compute, decoder_sizes, random_inputs

pytestmark = pytest.mark.slow
Portable = Callable[[str, str], ir.Model]
Compare = Callable[..., None]
GRAPHS = [(name, "decoder") for name in NETWORKS if "decoder" in name]
GRAPHS += [(name, "encoder") for name in NETWORKS if not name.startswith("decoder")]


def _fused(model: ir.Model) -> ir.Model:
    return finish(fuse_residual_norm(copy_of(model)), 23)


@pytest.mark.parametrize(("network", "graph"), GRAPHS, ids=" ".join)
def test_same_numbers(network: str, graph: str, portable: Portable, assert_close: Compare) -> None:
    model = portable(network, graph)
    inputs = random_inputs(model, decoder_sizes(2, 3, 4, 2))
    expected, actual = compute(model, inputs), compute(_fused(model), inputs)
    for name, value in expected.items():
        assert_close(actual[name], value)


# Two norms an encoder layer of two layers, three a decoder layer of three; before a sublayer the sum is read twice,
# by the norm and by the next residual, so that only the last norm of a stack can be fused.
FUSED = {
    ("encoder-decoder post relu", "encoder"): 4,
    ("encoder-decoder post relu", "decoder"): 9,
    ("decoder post relu", "decoder"): 6,
    ("encoder-decoder pre gelu", "encoder"): 1,
    ("encoder-decoder pre gelu", "decoder"): 1,
}


@pytest.mark.parametrize(("network", "graph"), FUSED, ids=" ".join)
def test_every_norm_after_a_residual(network: str, graph: str, portable: Portable) -> None:
    model = portable(network, graph)
    before, after = (Counter(node.op_type for node in m.graph) for m in (model, _fused(model)))
    assert after["SkipLayerNormalization"] == FUSED[network, graph]
    assert after["LayerNormalization"] == before["LayerNormalization"] - FUSED[network, graph]
    assert before["Add"] - after["Add"] == 2 * FUSED[network, graph]
