"""Quantizing a whole graph by the names of its matrices."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgewise.errors import ExportError
from edgewise.export.portable import portable_graphs
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.transformer import Transformer
from edgewise.quantize.graph import VOCABULARY, matrices, quantize_graph
from edgewise.quantize.schemes import Kernel
from edgewise.quantize.tensors import per_channel

pytestmark = pytest.mark.slow
Portable = dict[str, ir.Model]
IDS = np.array([[5, 6, 7, 2], [9, 8, 2, 0]])


def _names(portable: Portable) -> set[str]:
    return {name for graph in portable.values() for _, name, _ in matrices(graph)}


def _all(portable: Portable, kernel: Kernel) -> dict[str, Kernel]:
    """Every matrix by ``kernel``, but of four bits the vocabulary, which has no such form."""
    vocabulary: Kernel = "int8-blocks" if kernel == "int4-blocks" else kernel
    return {**dict.fromkeys(_names(portable), kernel), VOCABULARY: vocabulary}


def _encode(graph: ir.Model) -> list[NDArray[Any]]:
    data = ir.serde.serialize_model(graph).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": IDS, "mask": IDS != 0})  # type: ignore[no-any-return]


def test_every_matrix_by_name(model: Transformer, portable: Portable) -> None:
    layers = {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    layers[VOCABULARY] = model.embedding.weight
    found = {name: weight for graph in portable.values() for _, name, weight in matrices(graph)}
    assert set(found) == set(layers)
    for name, weight in found.items():
        np.testing.assert_array_equal(weight, layers[name].detach().numpy())


def test_float32_changes_nothing(portable: Portable) -> None:
    graph = quantize_graph(portable["encoder"], _all(portable, "float32"))
    assert [node.name for node in graph.graph] == [node.name for node in portable["encoder"].graph]
    for actual, expected in zip(_encode(graph), _encode(portable["encoder"]), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_rounded_weights_are_the_network_with_those_weights(
    model: Transformer, portable: Portable, assert_close: Any
) -> None:
    actual = _encode(quantize_graph(portable["encoder"], _all(portable, "int8-weights")))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    matrix_names = [f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)]
    for name in matrix_names:
        values, scale = per_channel(state[name].numpy())
        state[name] = torch.from_numpy(values * scale)
    rounded = Transformer(model.config).eval()
    rounded.load_state_dict(state)
    with torch.no_grad():
        hidden = rounded.encode(torch.from_numpy(IDS), torch.from_numpy(IDS != 0))
        [(key, value)] = rounded.cross_key_value(hidden)
    for got, want in zip(actual, (key, value), strict=True):
        assert_close(got, want.contiguous())


@pytest.mark.parametrize("kernel", get_args(Kernel)[1:])
def test_near_the_float_network(kernel: Kernel, portable: Portable) -> None:
    actual = _encode(quantize_graph(portable["encoder"], _all(portable, kernel)))
    for got, want in zip(actual, _encode(portable["encoder"]), strict=True):
        real = np.broadcast_to((IDS != 0)[:, None, :, None], want.shape)
        error = np.sqrt(np.mean((got - want)[real] ** 2) / np.mean(want[real] ** 2))
        assert 0 < error < (0.2 if kernel == "int4-blocks" else 0.03)


@pytest.mark.parametrize("kernel", [k for k in get_args(Kernel)[1:] if k != "int8-scaled-rows"])
def test_one_store_for_embedding_and_projection(kernel: Kernel, portable: Portable) -> None:
    """Two tensors of different shapes may hold the same bytes, which a file of weights stores once."""
    graph = quantize_graph(portable["decoder"], _all(portable, kernel)).graph
    assert "embedding.weight" not in graph.initializers
    stored = [value.const_value for value in graph.initializers.values() if (value.name or "").startswith("embedding.")]
    sizes = {tensor.tobytes(): tensor.nbytes for tensor in stored if tensor is not None}
    assert sum(sizes.values()) == 40 * 32 + 40 * 4  # a byte a weight, and as many scales as rows, for one block a row


def test_nodes_keep_the_names_that_passes_look_for(portable: Portable) -> None:
    before = {node.name for node in portable["decoder"].graph}
    graph = quantize_graph(portable["decoder"], _all(portable, "int8-rows")).graph
    after = {node.name for node in graph}
    assert _names({"decoder": portable["decoder"]}) <= after
    assert {name for name in before if name and name.endswith((".bias", "attention"))} <= after


def test_one_matrix_alone(portable: Portable) -> None:
    chosen = _all(portable, "float32") | {"decoder.layers.0.feed_forward.outer": "int8-rows"}
    graph = quantize_graph(portable["decoder"], chosen).graph
    quantized = {name for name, value in graph.initializers.items() if value.dtype == ir.DataType.INT8}
    assert quantized == {"decoder.layers.0.feed_forward.outer.int8"}


def test_the_original_stays_as_it_is(portable: Portable) -> None:
    before = ir.to_proto(portable["decoder"]).SerializeToString(deterministic=True)
    quantize_graph(portable["decoder"], _all(portable, "int8-blocks"))
    assert ir.to_proto(portable["decoder"]).SerializeToString(deterministic=True) == before


def test_a_matrix_without_a_kernel(portable: Portable) -> None:
    chosen = _all(portable, "int8-rows")
    del chosen["encoder.layers.0.feed_forward.inner"], chosen[VOCABULARY]
    with pytest.raises(
        ExportError, match=r"no kernel is chosen for encoder\.layers\.0\.feed_forward\.inner, vocabulary: choose one"
    ):
        quantize_graph(portable["encoder"], chosen)


@pytest.mark.parametrize("kernel", get_args(Kernel)[1:])
@pytest.mark.parametrize(("tied", "biased"), [(True, False), (False, True), (False, False)], ids=str)
def test_no_matrix_stays_behind_whatever_the_output_projection(tied: bool, biased: bool, kernel: Kernel) -> None:
    """Without a bias the output projection is an output of the graph; untied it shares nothing with the embedding."""
    stack = StackConfig(n_layers=1, d_model=32, n_heads=2, d_ff=64, norm_place="pre")
    ids = {"pad_id": 0, "start_id": 1, "end_id": 2}
    config = ModelConfig(vocab_size=40, max_positions=16, **ids, decoder=stack, tied=tied, output_bias=biased)
    torch.manual_seed(3)
    portable = portable_graphs(Transformer(config).eval())
    graph = quantize_graph(portable["decoder"], _all(portable, kernel)).graph
    left = [v.name for v in graph.initializers.values() if v.dtype == ir.DataType.FLOAT and len(v.shape or ()) == 2]
    assert not [name for name in left if name and name.endswith(".weight")]
    stored = {name for name in graph.initializers if name.startswith(("embedding.", "vocabulary."))}
    assert any(name.startswith("vocabulary.") for name in stored) == (not tied)
    assert [value.name for value in graph.outputs][:1] == ["logits"]
