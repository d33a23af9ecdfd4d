"""Self-attention of an encoder in ONNX Runtime's kernel: the portable numbers in fewer operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgewise.export.passes.encoder_attention import fuse_encoder_attention
from edgewise.export.passes.patterns import copy_of, finish
from edgewise.export.portable import portable_graphs
from edgewise.export.variants import variant_graphs

from ..conftest import NETWORKS, POST, PRE, Arrays, network
from .conftest import compute, decoder_sizes, random_inputs

pytestmark = pytest.mark.slow
Portable = Callable[[str, str], ir.Model]
Compare = Callable[..., None]
Run = Callable[[str, Path, Arrays], Arrays]
ENCODERS = [name for name in NETWORKS if not name.startswith("decoder")]


def _fused(model: ir.Model) -> ir.Model:
    return finish(fuse_encoder_attention(copy_of(model)), 23)


@pytest.mark.parametrize(("batch", "source"), [(1, 1), (3, 7), (2, 80)], ids=str)
@pytest.mark.parametrize("network", ENCODERS)
def test_same_numbers(network: str, batch: int, source: int, portable: Portable, assert_close: Compare) -> None:
    model = portable(network, "encoder")
    inputs = random_inputs(model, decoder_sizes(batch, 1, 1, 0, source))
    expected, actual = compute(model, inputs), compute(_fused(model), inputs)
    for name, value in expected.items():
        assert_close(actual[name], value)


def test_padding_is_not_seen(portable: Portable) -> None:
    model = _fused(portable("words post relu", "encoder"))
    inputs = random_inputs(model, decoder_sizes(2, 1, 1, 0, 9))
    inputs["mask"][:] = np.arange(9) < 5
    first = compute(model, inputs)
    inputs["ids"][:, 5:] = 7
    again = compute(model, inputs)
    np.testing.assert_array_equal(again["hidden"][:, :5], first["hidden"][:, :5])


def test_one_operator_a_layer(portable: Portable) -> None:
    model = portable("encoder-decoder post relu", "encoder")
    before, after = (Counter(node.op_type for node in m.graph) for m in (model, _fused(model)))
    assert (before["Attention"], after["Attention"]) == (2, 2)
    assert (before["Transpose"] - after["Transpose"], before["Expand"] - after["Expand"]) == (2 * 4, 0)
    assert sum(after.values()) <= sum(before.values()) - 2 * 8


def test_a_decoder_stays_as_it_is(portable: Portable) -> None:
    model = portable("decoder post relu", "decoder")
    count = len(model.graph)
    assert fuse_encoder_attention(model) is model
    assert len(model.graph) == count


@pytest.mark.parametrize("change", [POST, PRE], ids=["post", "pre"])
@pytest.mark.parametrize("other", [{"attention_bias": False}, {"n_kv_heads": 1}], ids=["no biases", "shared heads"])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_other_attentions(
    target: str, other: dict[str, Any], change: dict[str, Any], tmp_path: Path, run: Run, assert_close: Compare
) -> None:
    """Against PyTorch, whole: the variant as it is exported."""
    reference = network("encoder", {**change, **other})
    model = variant_graphs(portable_graphs(reference), target)["encoder"]
    ir.save(model, tmp_path / "encoder.onnx")
    inputs = random_inputs(model, decoder_sizes(3, 1, 1, 0, 7))
    with torch.no_grad():
        expected = reference.encode(torch.from_numpy(inputs["ids"]), torch.from_numpy(inputs["mask"]))
    engine = {"cpu": "onnxruntime", "openvino": "openvino"}[target]
    assert_close(run(engine, tmp_path / "encoder.onnx", inputs)["hidden"], expected.numpy())
