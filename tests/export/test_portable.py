"""Portable graphs compute what the reference computes, on two engines, whatever the shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle.scan import graph_spec

from .conftest import NETWORKS, Arrays, Exported

Get = Callable[[str], Exported]
Run = Callable[[str, Path, Arrays], Arrays]
Compare = Callable[..., None]

pytestmark = pytest.mark.slow
ENGINES = ("onnxruntime", "openvino")
SEQUENCE = [name for name in NETWORKS if "encoder-decoder" in name]
DECODERS = [name for name in NETWORKS if "decoder" in name]
ENCODERS = [name for name in NETWORKS if name not in DECODERS]


class Shape(NamedTuple):
    """Sizes of one call of a decoder."""

    batch: int
    beams: int
    tokens: int
    past: int
    source: int
    picks: int


SHAPES = {
    "prefill of one token": Shape(2, 1, 1, 0, 5, 1),
    "prefill, all logits": Shape(3, 1, 6, 0, 4, 6),
    "first step": Shape(2, 1, 1, 1, 3, 1),
    "step after 63, beams": Shape(2, 5, 1, 63, 6, 1),
    "smallest": Shape(1, 1, 1, 0, 1, 1),
    "one source token, beams": Shape(2, 5, 1, 4, 1, 1),
    "chunk after past, beams": Shape(2, 5, 3, 1, 7, 2),
    "chunk after 63": Shape(1, 1, 9, 63, 2, 4),
    "one sentence, beams": Shape(1, 5, 2, 3, 8, 1),
}


def _ids(generator: torch.Generator, *size: int) -> Tensor:
    return torch.randint(3, 29, size, generator=generator)


def _padding(generator: torch.Generator, *size: int) -> Tensor:
    """A random mask; a row always keeps its first place."""
    mask = torch.rand(size, generator=generator) < 0.7
    mask[:, 0] = True
    return mask


def _decoder_inputs(model: Transformer, shape: Shape, with_encoder: bool) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(hash(shape) % 2**31)
    config = model.config.decoder
    assert config is not None
    rows, keys = shape.batch * shape.beams, shape.past + shape.tokens
    inputs = {
        "ids": _ids(g, rows, shape.tokens),
        "positions": torch.randint(0, 80, (rows, shape.tokens), generator=g),
        "key_mask": _padding(g, rows, keys),
        "logit_index": torch.randint(0, shape.tokens, (rows, shape.picks), generator=g),
    }
    sizes = {"past": (rows, config.n_heads, shape.past, config.head_width)}
    if with_encoder:
        sizes["cross"] = (shape.batch, config.n_heads, shape.source, config.head_width)
        inputs["cross_mask"] = _padding(g, shape.batch, shape.source)
    for kind, size in sizes.items():
        for i in range(config.n_layers):
            inputs |= {f"{kind}_{part}_{i}": torch.randn(size, generator=g) for part in ("key", "value")}
    return inputs


def _pairs(inputs: dict[str, Tensor], kind: str) -> list[tuple[Tensor, Tensor]] | None:
    count = sum(name.startswith(f"{kind}_key_") for name in inputs)
    return [(inputs[f"{kind}_key_{i}"], inputs[f"{kind}_value_{i}"]) for i in range(count)] or None


@torch.no_grad()
def _decode(model: Transformer, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    past, cross = _pairs(inputs, "past"), _pairs(inputs, "cross")
    hidden, presents = model.decode(
        inputs["ids"], inputs["positions"], inputs["key_mask"], past, cross, inputs.get("cross_mask")
    )
    rows = torch.arange(len(hidden))[:, None]
    outputs = {"logits": model.logits(hidden[rows, inputs["logit_index"]])}
    for i, (key, value) in enumerate(presents):
        outputs |= {f"present_key_{i}": key, f"present_value_{i}": value}
    return outputs


def _numpy(tensors: dict[str, Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _assert_outputs(actual: Arrays, expected: dict[str, Tensor], assert_close: Compare) -> None:
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert_close(actual[name], tensor.contiguous())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name: str, shape: Shape, engine: str, exported: Get, run: Run, assert_close: Compare) -> None:
    made = exported(name)
    inputs = _decoder_inputs(made.model, shape, name in SEQUENCE)
    actual = run(engine, made.files["decoder"], _numpy(inputs))
    _assert_outputs(actual, _decode(made.model, inputs), assert_close)


SOURCES = {"smallest": (1, 1), "one token": (3, 1), "several": (4, 7), "one sentence": (1, 12), "longest": (2, 80)}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("name", SEQUENCE)
def test_encoder_gives_cross_key_value(
    name: str, size: tuple[int, int], engine: str, exported: Get, run: Run, assert_close: Compare
) -> None:
    made = exported(name)
    g = torch.Generator().manual_seed(3)
    ids, mask = _ids(g, *size), _padding(g, *size)
    with torch.no_grad():
        expected = made.model.cross_key_value(made.model.encode(ids, mask))
    actual = run(engine, made.files["encoder"], {"ids": ids.numpy(), "mask": mask.numpy()})
    assert len(actual) == 2 * len(expected)
    for i, (key, value) in enumerate(expected):
        assert_close(actual[f"cross_key_{i}"], key.contiguous())
        assert_close(actual[f"cross_value_{i}"], value.contiguous())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_alone(
    name: str, size: tuple[int, int], engine: str, exported: Get, run: Run, assert_close: Compare
) -> None:
    made = exported(name)
    g = torch.Generator().manual_seed(4)
    inputs = {"ids": _ids(g, *size), "mask": _padding(g, *size)}
    with torch.no_grad():
        hidden = made.model.encode(inputs["ids"], inputs["mask"])
        if "words" in name:
            inputs["logit_index"] = torch.randint(0, size[1], (size[0], 3), generator=g)
            logits = made.model.logits(hidden[torch.arange(size[0])[:, None], inputs["logit_index"]])
        else:
            logits = made.model.classify(hidden, inputs["mask"])
    actual = run(engine, made.files["encoder"], _numpy(inputs))
    _assert_outputs(actual, {"hidden": hidden, "logits": logits}, assert_close)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DECODERS)
def test_step_by_step_equals_one_pass(name: str, engine: str, exported: Get, run: Run, assert_close: Compare) -> None:
    made = exported(name)
    whole = _numpy(_decoder_inputs(made.model, Shape(2, 3, 6, 0, 5, 6), name in SEQUENCE))
    whole["logit_index"] = np.broadcast_to(np.arange(6), (6, 6)).copy()
    expected = run(engine, made.files["decoder"], whole)
    inputs, logits, outputs = dict(whole), [], {}
    for t in range(6):
        inputs |= {n: np.ascontiguousarray(whole[n][:, t : t + 1]) for n in ("ids", "positions")}
        inputs |= {"key_mask": np.ascontiguousarray(whole["key_mask"][:, : t + 1])}
        inputs |= {"logit_index": np.zeros((6, 1), np.int64)}
        outputs = run(engine, made.files["decoder"], inputs)
        logits.append(outputs.pop("logits"))
        inputs |= {n.replace("present", "past"): value for n, value in outputs.items()}
    assert_close(np.concatenate(logits, axis=1), expected.pop("logits"))
    for n, value in expected.items():
        assert_close(outputs[n], value)


# --- what passes rely on ----------------------------------------------------------------------------------------------


def _graphs(made: Exported) -> dict[str, ir.Model]:
    return {name: ir.load(file) for name, file in made.files.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_keeps_name_and_values(name: str, exported: Get) -> None:
    made = exported(name)
    table = made.model.positions
    expected = ({} if table is None else {"position_table": table}) | dict(made.model.named_parameters())
    found = set()
    for graph in _graphs(made).values():
        for value in graph.graph.initializers.values():
            if value.name in expected:
                assert value.const_value is not None
                np.testing.assert_array_equal(value.const_value.numpy(), expected[value.name].detach().numpy())
                found.add(value.name)
            else:
                assert value.const_value is not None
                small = value.const_value.size <= 4 or value.dtype == ir.DataType.INT64  # buckets of offsets
                assert small, f"{value.name} is a folded parameter"
    assert found == set(expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_linear_layers_are_named_matrix_products(name: str, exported: Get) -> None:
    made = exported(name)
    nodes: dict[str | None, ir.Node] = {n.name: n for m in _graphs(made).values() for n in m.graph}
    layers = {n for n, module in made.model.named_modules() if isinstance(module, nn.Linear) and n != "classifier"}
    for layer in layers:
        product, bias = nodes[layer], nodes[f"{layer}.bias"]
        assert (product.op_type, bias.op_type) == ("MatMul", "Add")
        _assert_matrix(product, f"{layer}.weight")
    assert nodes["embedding"].op_type == "Gather"
    if "classes" in name:
        assert nodes["classifier"].op_type == "Gemm"
    else:
        _assert_matrix(nodes["vocabulary"], "embedding.weight")


def _assert_matrix(product: ir.Node, weight: str) -> None:
    matrix = product.inputs[1]
    transpose = matrix.producer() if matrix is not None else None
    assert transpose is not None
    assert transpose.op_type == "Transpose"
    assert transpose.inputs[0] is not None
    assert transpose.inputs[0].name == weight


@pytest.mark.parametrize("name", DECODERS)
def test_attention_reads_past_and_present(name: str, exported: Get) -> None:
    graph = _graphs(exported(name))["decoder"].graph
    nodes = {node.name: node for node in graph if node.op_type == "Attention"}
    for i in range(3):
        attention = nodes[f"decoder.layers.{i}.attention"]
        for port, part in ((1, "key"), (2, "value")):
            present = attention.inputs[port]
            assert present is not None
            assert present.name == f"present_{part}_{i}"
            concat = present.producer()
            assert concat is not None
            assert concat.op_type == "Concat"
            assert concat.inputs[0] is not None
            assert concat.inputs[0].name == f"past_{part}_{i}"
    assert len(nodes) == (6 if name in SEQUENCE else 3)


ALLOWED = {
    "Add",
    "And",
    "Attention",
    "Concat",
    "Div",
    "Expand",
    "Gather",
    "GatherElements",
    "Gelu",
    "LessOrEqual",
    "Mul",
}
ALLOWED |= {"LayerNormalization", "MatMul", "Range", "Relu", "Reshape", "Shape", "Squeeze", "Sub", "Transpose"}
ALLOWED |= {"Mul", "Unsqueeze"}


@pytest.mark.parametrize("name", NETWORKS)
def test_operators_and_signature(name: str, exported: Get) -> None:
    made = exported(name)
    extra = {"Cast", "Clip", "Gemm", "ReduceSum"} if "classes" in name else set()
    extra |= {"Cast", "Clip", "CumSum", "Where"} if "relative" in name else set()
    for file in made.files.values():
        model = ir.load(file)
        assert {node.op_type for node in model.graph} <= ALLOWED | extra
        assert model.opset_imports == {"": 23}
        assert not model.functions
        graph_spec(file)  # a bundle may hold it


def test_dimensions_are_named(exported: Get) -> None:
    spec = graph_spec(exported(SEQUENCE[0]).files["decoder"])
    shapes: dict[str, Any] = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
    expected = {
        "ids": ("rows", "tokens"),
        "positions": ("rows", "tokens"),
        "key_mask": ("rows", "keys"),
        "logit_index": ("rows", "picks"),
        "past_key_0": ("rows", 2, "past", 8),
        "cross_key_0": ("batch", 2, "source", 8),
        "cross_mask": ("batch", "source"),
        "logits": ("rows", "picks", 29),
        "present_value_2": ("rows", 2, "keys", 8),
    }
    assert {name: shapes[name] for name in expected} == expected
