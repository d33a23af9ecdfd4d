"""The network on integers: products against Python's own, whole graphs against ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from edgewise.errors import ExportError
from edgewise.export.portable import portable_graphs
from edgewise.export.quantized import QuantizedLinear, quantized_network
from edgewise.models.transformer import Transformer
from edgewise.quantize.graph import matrices, quantize_graph
from edgewise.quantize.schemes import Kernel
from edgewise.runtime.bundle import signature as names
from edgewise.runtime.bundle.quantized import Arithmetic

from .conftest import NETWORKS, network


def _scale_by_hand(weights: list[float], blocked: bool) -> float:
    """Of blocks the nearest of 64."""
    largest = max(abs(w) for w in weights)
    scales = [largest / levels for levels in range(127, 63, -1)]
    return min(scales, key=lambda s: sum((w - round(w / s) * s) ** 2 for w in weights)) if blocked else scales[0]


def _by_hand(x: Any, weight: Any, weight_size: int, activation_size: int) -> list[float]:
    """One row times ``weight``, number by number."""
    result = []
    for row in weight.tolist():
        total = 0.0
        for start in range(0, len(row), activation_size):
            places = range(start, start + activation_size)
            largest = max(abs(x[k].item()) for k in places)
            block = start // weight_size * weight_size
            scale = _scale_by_hand(row[block : block + weight_size], blocked=weight_size == 32)
            whole = sum(round(x[k].item() * 127 / largest) * round(row[k] / scale) for k in places)
            total += whole * scale * largest / 127
        result.append(total)
    return result


@pytest.mark.parametrize(
    ("blocked", "group", "sizes"),
    [(True, 32, (32, 32)), (False, 32, (96, 32)), (False, 0, (96, 96))],
    ids=["int8-blocks", "int8-weights in groups", "int8-rows"],
)
def test_a_product_by_hand(blocked: bool, group: int, sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(5)
    weight, bias = torch.randn(7, 96, generator=generator), torch.randn(7, generator=generator)
    x = torch.randn(3, 96, generator=generator) * torch.tensor([[0.01], [1.0], [30.0]])
    found = QuantizedLinear(weight, bias, blocked, group)(x)
    expected = [[y + b for y, b in zip(_by_hand(row, weight, *sizes), bias.tolist(), strict=True)] for row in x]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6, atol=2e-6)
    assert np.abs(found.numpy() - (x @ weight.T + bias).numpy()).max() > 1e-3  # it is no float32 product


def test_without_groups_the_weights_alone_are_rounded() -> None:
    weight = torch.tensor([[1.27, -0.5, 0.004], [0.0, 254.0, 2.9]])
    product = QuantizedLinear(weight, None, False, None)
    np.testing.assert_allclose(product.weight, [[1.27, -0.5, 0.0], [0.0, 254.0, 2.0]], rtol=1e-6)
    np.testing.assert_allclose(product(torch.eye(3)), product.weight.T)


def test_rows_of_zeros_stay_zeros() -> None:
    product = QuantizedLinear(torch.zeros(2, 32), None, True, 32)
    assert product(torch.zeros(1, 32)).tolist() == [[0.0, 0.0]]
    assert product(torch.ones(1, 32)).abs().max() < 1e-9


def _networks(kind: str, kernel: Kernel, arithmetic: Arithmetic = "int8") -> tuple[Any, dict[str, ir.Model]]:
    model = network(*NETWORKS[kind])
    portable = portable_graphs(model)
    chosen = {"vocabulary": kernel, **{name: kernel for graph in portable.values() for _, name, _ in matrices(graph)}}
    graphs = {name: quantize_graph(graph, chosen) for name, graph in portable.items()}
    return quantized_network(model, chosen, "cpu", arithmetic), graphs


def _run(model: ir.Model, feeds: dict[str, Any]) -> dict[str, Any]:
    evaluator = ReferenceEvaluator(ir.serde.serialize_model(model))
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


IDS = np.array([[5, 9, 22, 4, 2], [7, 7, 2, 0, 0]])


@pytest.mark.parametrize("kernel", ["int8-rows", "int8-weights"])
@pytest.mark.parametrize("kind", ["words post relu", "words pre gelu", "classes post relu"])
@torch.inference_mode()
def test_encoders_are_what_onnx_says_of_their_graphs(kind: str, kernel: Kernel) -> None:
    own, graphs = _networks(kind, kernel)
    mask = IDS != 0
    feeds = {names.IDS: IDS, names.MASK: mask, names.LOGIT_INDEX: np.array([[1, 2], [0, 1]])}
    if kind.startswith("classes"):
        del feeds[names.LOGIT_INDEX]
    expected = _run(graphs[names.ENCODER], feeds)
    hidden = own.encode(torch.from_numpy(IDS), torch.from_numpy(mask))
    logits = (
        own.classify(hidden, torch.from_numpy(mask))
        if kind.startswith("classes")
        else own.logits(hidden[[[0], [1]], feeds[names.LOGIT_INDEX]])
    )
    np.testing.assert_allclose(hidden.numpy()[mask], expected[names.HIDDEN][mask], atol=2e-5)
    np.testing.assert_allclose(logits.numpy(), expected[names.LOGITS], atol=2e-5)


@pytest.mark.parametrize("kernel", ["int8-rows", "int8-weights"])
@torch.inference_mode()
def test_a_translator_is_what_onnx_says_of_its_graphs(kernel: Kernel) -> None:
    own, graphs = _networks("encoder-decoder post relu", kernel)
    mask = IDS != 0
    cross = _run(graphs[names.ENCODER], {names.IDS: IDS, names.MASK: mask})
    fed = np.array([[1, 11, 3], [1, 6, 28]])
    stack = own.config.decoder
    past = {
        name(i): np.zeros((2, stack.n_heads, 0, stack.head_width), np.float32)
        for i in range(stack.n_layers)
        for name in (names.past_key, names.past_value)
    }
    everywhere = np.broadcast_to(np.arange(3), fed.shape)
    feeds = {names.IDS: fed, names.POSITIONS: everywhere, names.LOGIT_INDEX: everywhere, names.CROSS_MASK: mask}
    feeds |= {names.KEY_MASK: np.ones_like(fed, dtype=bool), **past, **cross}
    expected = _run(graphs[names.DECODER], feeds)[names.LOGITS]
    source = torch.from_numpy(mask)
    memory = own.cross_key_value(own.encode(torch.from_numpy(IDS), source))
    keys = torch.ones(2, 3, dtype=torch.bool)
    hidden, _ = own.decode(
        torch.from_numpy(fed), torch.from_numpy(everywhere.copy()), keys, cross=memory, cross_mask=source
    )
    np.testing.assert_allclose(own.logits(hidden).numpy(), expected, atol=2e-5)


@torch.inference_mode()
def test_an_engine_may_leave_activations_as_they_are() -> None:
    """``int8-blocks`` with float32 activations is a float32 network of rounded weights."""
    model = Transformer(network(*NETWORKS["words post relu"]).config).eval()
    kernels = dict.fromkeys(("vocabulary", "encoder.layers.0.feed_forward.inner"), "int8-weights")
    own = quantized_network(model, kernels, "openvino", "float32")
    inner = model.encoder.layers[0].feed_forward.inner  # type: ignore[union-attr,index]
    for weight in (inner.weight.data, model.embedding.weight.data):
        scale = weight.abs().amax(1, keepdim=True) / 127
        weight.copy_((weight / scale).round() * scale)
    ids = torch.from_numpy(IDS)
    expected = model.logits(model.encode(ids, ids != 0))
    np.testing.assert_allclose(own.logits(own.encode(ids, ids != 0)), expected, atol=1e-5)


def test_a_kernel_that_mixes_rows_is_refused() -> None:
    with pytest.raises(ExportError, match="kernel 'int8-tensor' mixes rows"):
        quantized_network(network(*NETWORKS["words post relu"]), {"vocabulary": "int8-tensor"}, "cpu", "int8")
