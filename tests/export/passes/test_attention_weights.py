"""Cross-attention weights as a graph: those of the reference, for every layer, in both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgewise.export.passes.attention_weights import attention_graph, reads_whole_heads
from edgewise.export.portable import portable_graphs
from edgewise.export.variants import alignment_layer, variant_graphs
from edgewise.models.attention import cross_attention_weights
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.decode import right_pad
from edgewise.models.transformer import Transformer

from ..conftest import Arrays, Exported

pytestmark = pytest.mark.slow
Get = Callable[[str], Exported]
Run = Callable[[str, Path, Arrays], Arrays]
Compare = Callable[..., None]
NETWORKS = ("encoder-decoder post relu", "encoder-decoder pre gelu")
SOURCES = [[7, 9, 4, 11, 2], [5, 2], [20, 21, 22, 23, 24, 25, 2]]
TARGETS = [[1, 5, 8], [1, 6, 7, 9, 9], [1]]


def feeds(model: Transformer) -> Arrays:
    """Padded sources and targets, and the K/V of the reference's encoder."""
    (source, cross_mask), (ids, mask) = right_pad(SOURCES, 0), right_pad(TARGETS, 0)
    found: dict[str, Any] = {"ids": ids, "key_mask": mask, "cross_mask": cross_mask}
    found["positions"] = torch.arange(ids.shape[1]).repeat(len(ids), 1)
    with torch.inference_mode():
        for i, (key, value) in enumerate(model.cross_key_value(model.encode(source, cross_mask))):
            found |= {f"cross_key_{i}": key, f"cross_value_{i}": value}
    return {name: value.numpy() for name, value in found.items()}


def assert_weights(found: np.ndarray[Any, Any], model: Transformer, layer: int, assert_close: Compare) -> None:
    for i, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        expected = cross_attention_weights(model, source, target, layer).mean(0)
        assert_close(found[i, : len(target), : len(source)], expected.numpy(), atol=1e-5)
        assert not found[i, : len(target), len(source) :].any(), "padding of the source has weight"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_looks_where_the_reference_does(
    network: str, layer: int, engine: str, exported: Get, run: Run, assert_close: Compare, tmp_path: Path
) -> None:
    made = exported(network)
    graph = attention_graph(ir.load(made.files["decoder"]), layer)
    ir.save(graph, tmp_path / "alignment.onnx")
    inputs = {name: array for name, array in feeds(made.model).items() if name in {v.name for v in graph.graph.inputs}}
    found = run(engine, tmp_path / "alignment.onnx", inputs)["cross_attention"]
    assert_weights(found, made.model, layer, assert_close)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_variant_looks_where_the_reference_does(
    network: str, target: str, exported: Get, run: Run, assert_close: Compare, tmp_path: Path
) -> None:
    made = exported(network)
    graph = variant_graphs({name: ir.load(file) for name, file in made.files.items()}, target)["alignment"]
    ir.save(graph, tmp_path / "alignment.onnx")
    inputs = {name: array for name, array in feeds(made.model).items() if name in {v.name for v in graph.graph.inputs}}
    engine = "onnxruntime" if target == "cpu" else target
    found = run(engine, tmp_path / "alignment.onnx", inputs)["cross_attention"]
    assert_weights(found, made.model, 2, assert_close)


def test_what_comes_after_the_weights_is_gone(exported: Get) -> None:
    decoder = ir.load(exported(NETWORKS[0]).files["decoder"])
    graph = attention_graph(decoder, 1).graph
    assert [value.name for value in graph.outputs] == ["cross_attention"]
    kept = set(graph.initializers)
    assert not {"decoder.layers.1.cross_attention.output.weight", "decoder.layers.1.feed_forward.inner.weight"} & kept
    assert not any(name.startswith(("decoder.layers.2.", "vocabulary")) for name in kept)
    assert "cross_value_1" not in {value.name for value in graph.inputs}
    assert not any((value.name or "").startswith("past_") for value in graph.inputs)
    assert {value.name for value in decoder.graph.outputs} > {"logits", "present_key_0"}, "the decoder was changed"


def test_nothing_is_aligned_without_a_source_or_with_shared_heads(exported: Get) -> None:
    alone = {name: ir.load(file) for name, file in exported("decoder post relu").files.items()}
    assert alignment_layer(alone) is None
    stack = StackConfig(n_layers=1, d_model=16, n_heads=4, n_kv_heads=2, d_ff=24)
    shared = Transformer(
        ModelConfig(vocab_size=9, max_positions=8, pad_id=0, start_id=1, end_id=2, encoder=stack, decoder=stack)
    )
    graphs = portable_graphs(shared.eval())
    assert not reads_whole_heads(graphs["decoder"])
    assert alignment_layer(graphs) is None
