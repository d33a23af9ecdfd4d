"""Tokens of all texts as rows: the same bits, whatever head reads them, and nothing turned for nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgewise.export.passes.encoder_attention import fuse_encoder_attention
from edgewise.export.passes.flat_rows import flatten_rows
from edgewise.export.passes.many_rows import fuse_many_rows
from edgewise.export.passes.patterns import copy_of, finish
from edgewise.export.portable import portable_graphs
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.position_config import RelativeConfig
from edgewise.models.transformer import Transformer
from edgewise.quantize.graph import VOCABULARY, matrices, quantize_graph
from edgewise.quantize.kernels import Scaling
from edgewise.quantize.scaling import scalings

from .conftest import compute, random_inputs

pytestmark = pytest.mark.slow
Head = Literal["vocabulary", "classes", "embedding", "tags", "span"]
HEADS: list[Head] = ["vocabulary", "classes", "embedding", "tags", "span"]


def _network(head: Head, **change: Any) -> Transformer:
    stack = StackConfig(n_layers=2, d_model=32, n_heads=4, d_ff=64, **{"activation": "gelu", **change})
    config = ModelConfig(
        vocab_size=29,
        max_positions=80,
        pad_id=0,
        start_id=1,
        end_id=2,
        encoder=stack,
        head=head,
        positions="learned",
        token_types=2,
        embedding_norm=True,
        class_names=("bad", "good") if head in ("classes", "tags") else (),
        pooling="mean" if head == "embedding" else None,
        normalize=head == "embedding",
        pair_between=(2,),
        second_segment=1,
    )
    torch.manual_seed(1)
    model = Transformer(config).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return model


def _quantized(model: ir.Model, kernel: str, scaled: Mapping[str, Scaling] | None = None) -> ir.Model:
    chosen = {VOCABULARY: "int8-rows"} | {name: kernel for _, name, _ in matrices(model) if name != VOCABULARY}
    return quantize_graph(model, chosen, scaled)  # type: ignore[arg-type]


def _inputs(model: ir.Model) -> Any:
    sizes = {"batch": 3, "source": 7, "logits": 1, "pairs": 1}
    return random_inputs(model, {str(d): sizes.get(str(d), 2) for v in model.graph.inputs for d in v.shape or ()})


def _same(model: ir.Model) -> Counter[str]:
    texts = finish(fuse_many_rows(fuse_encoder_attention(copy_of(model))), 24)
    attending = fuse_encoder_attention(copy_of(model))
    rows = finish(fuse_many_rows(flatten_rows(attending)), 24)
    inputs = _inputs(model)
    if "segments" in inputs:
        inputs["segments"] %= 2
    expected, found = compute(texts, inputs), compute(rows, inputs)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    return Counter(node.op_type for node in rows.graph)


@pytest.mark.parametrize("kernel", ["float32", "int8-rows", "int8-blocks"])
@pytest.mark.parametrize("head", HEADS)
def test_same_bits(head: Head, kernel: str) -> None:
    model = portable_graphs(_network(head))["encoder"]
    _same(_quantized(model, kernel) if kernel != "float32" else model)


@pytest.mark.parametrize(
    "change", [{}, {"activation": "relu"}, {"norm": "rms", "norm_place": "pre"}, {"gated": True}], ids=str
)
def test_with_factors(change: dict[str, Any]) -> None:
    model = portable_graphs(_network("embedding", **change))["encoder"]
    rng = np.random.default_rng(0)
    inputs = {n: rng.standard_normal((9, w.shape[1])).astype(np.float32) for _, n, w in matrices(model)}
    scaled = scalings({"encoder": model}, inputs)
    assert (scaled["encoder.layers.0.feed_forward.outer"].least is None) == ("gated" in change)
    count = _same(_quantized(model, "int8-scaled-rows", scaled))
    assert (count["QuantizeLinear"], count["MatMulIntegerToFloat"]) == (2 * 4, 2 * (6 + ("gated" in change)))
    assert not count.keys() & {"Round", "MatMulInteger"}


def test_a_bias_of_two_tokens_is_no_row() -> None:
    """Relative positions (T5) look up a number for every pair of tokens."""
    model = _network("embedding")
    config = dataclasses.replace(model.config, positions="relative", relative=RelativeConfig())
    relative = Transformer(config).eval()
    for parameter in relative.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    texts = finish(fuse_encoder_attention(portable_graphs(relative)["encoder"]), 24)
    rows = finish(flatten_rows(fuse_encoder_attention(portable_graphs(relative)["encoder"])), 24)
    inputs = _inputs(texts)
    if "segments" in inputs:
        inputs["segments"] %= 2
    expected, found = compute(texts, inputs), compute(rows, inputs)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_texts_are_made_only_where_they_are_read() -> None:
    """Queries, keys, values and what is made of them, in each of two layers; two tables; the result."""
    model = portable_graphs(_network("embedding"))["encoder"]
    count = _same(_quantized(model, "int8-rows"))
    scales = count["QuantizeLinear"]
    shapes_of_positions, tables, result = 2, 3, 1
    assert count["Reshape"] <= 2 * 4 + scales + shapes_of_positions + tables + result
