"""Cross-attention in ONNX Runtime's kernel: the portable numbers in fewer operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.export.passes.cross_attention import fuse_cross_attention
from edgewise.export.passes.patterns import copy_of, finish

from .conftest import compute, decoder_sizes, random_inputs

pytestmark = pytest.mark.slow
Portable = Callable[[str, str], ir.Model]
Compare = Callable[..., None]
SHAPES = {
    "smallest": decoder_sizes(1, 1, 1, 0, source=1),
    "batch": decoder_sizes(3, 1, 4, 0),
    "beams": decoder_sizes(2, 5, 1, 3),
    "beams of one sentence, chunk": decoder_sizes(1, 5, 2, 17),
}


def _fused(model: ir.Model) -> ir.Model:
    return finish(fuse_cross_attention(copy_of(model)), 23)


@pytest.mark.parametrize("network", ["encoder-decoder post relu", "encoder-decoder pre gelu"])
@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_same_numbers(network: str, sizes: dict[str, int], portable: Portable, assert_close: Compare) -> None:
    model = portable(network, "decoder")
    inputs = random_inputs(model, sizes)
    expected, actual = compute(model, inputs), compute(_fused(model), inputs)
    for name, value in expected.items():
        assert_close(actual[name], value)


def test_padding_of_the_source_is_not_seen(portable: Portable) -> None:
    model = _fused(portable("encoder-decoder post relu", "decoder"))
    inputs = random_inputs(model, decoder_sizes(2, 2, 1, 1))
    inputs["cross_mask"][:, 3:] = False
    first = compute(model, inputs)["logits"]
    for name in inputs:
        if name.startswith(("cross_key", "cross_value")):
            inputs[name][:, :, 3:] = 1e3
    np.testing.assert_array_equal(compute(model, inputs)["logits"], first)


def test_one_operator_a_layer(portable: Portable) -> None:
    model = portable("encoder-decoder post relu", "decoder")
    before, after = (Counter(node.op_type for node in m.graph) for m in (model, _fused(model)))
    assert after["MultiHeadAttention"] == 3
    assert after["Attention"] == before["Attention"] - 3
    assert after["Add"] == before["Add"] - 3
    assert sum(after.values()) <= sum(before.values()) - 3 * 5


def test_without_an_encoder_nothing_changes(portable: Portable) -> None:
    model = portable("decoder post relu", "decoder")
    count = len(model.graph)
    assert fuse_cross_attention(model) is model
    assert len(model.graph) == count
