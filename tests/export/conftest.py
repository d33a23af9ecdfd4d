"""Tiny networks of all three architectures, exported once for all tests, and one way to run a graph on two engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgewise.export.portable import export_portable
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.position_config import RelativeConfig
from edgewise.models.transformer import Transformer

Arrays = dict[str, NDArray[Any]]
POST: dict[str, Any] = {"norm_place": "post", "activation": "relu"}
PRE: dict[str, Any] = {"norm_place": "pre", "activation": "gelu"}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "encoder-decoder post relu": ("encoder-decoder", POST),
    "encoder-decoder pre gelu": ("encoder-decoder", {**PRE, "head_dim": 16, "attention_scale": 0.4}),
    "encoder-decoder relative": ("encoder-decoder", {**PRE, "relative": True}),
    "decoder post relu": ("decoder", POST),
    "decoder pre gelu": ("decoder", PRE),
    "words post relu": ("encoder", POST),
    "words pre gelu": ("encoder", PRE),
    "classes post relu": ("classes", POST),
    "classes pre gelu": ("classes", PRE),
}


@dataclass(frozen=True)
class Exported:
    """A reference network and the files of its portable graphs."""

    model: Transformer
    files: dict[str, Path]


def network(kind: str, change: dict[str, Any]) -> Transformer:
    """Every parameter is random: zero biases and unit norms would hide a mix-up."""
    stack = {"d_model": 16, "n_heads": 2, "d_ff": 24, **change}
    relative = RelativeConfig(buckets=8, max_distance=20) if stack.pop("relative", False) else None
    encoder = None if kind == "decoder" else StackConfig(n_layers=2, **stack)
    decoder = StackConfig(n_layers=3, **stack) if "decoder" in kind else None
    names = ("bad", "fair", "good") if kind == "classes" else ()
    config = ModelConfig(
        vocab_size=29,
        max_positions=80,
        pad_id=0,
        start_id=1,
        end_id=2,
        encoder=encoder,
        decoder=decoder,
        head="classes" if names else "vocabulary",
        class_names=names,
        positions="relative" if relative else "sinusoidal",
        relative=relative,
    )
    generator = torch.Generator().manual_seed(11)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """``exported(name)``: a network of ``NETWORKS`` and its graphs."""
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            model = network(*NETWORKS[name])
            made[name] = Exported(model, export_portable(model, tmp_path_factory.mktemp("portable")))
        return made[name]

    return get


@pytest.fixture(scope="session")
def run() -> Callable[[str, Path, Arrays], Arrays]:
    """``run(engine, file, inputs)``: all outputs by name, on ``onnxruntime`` or on ``openvino`` in f32, one thread."""
    opened: dict[tuple[str, Path], Callable[[Arrays], Arrays]] = {}

    def get(engine: str, file: Path, inputs: Arrays) -> Arrays:
        if (engine, file) not in opened:
            opened[engine, file] = {"onnxruntime": _onnxruntime, "openvino": _openvino}[engine](file)
        return opened[engine, file](inputs)

    return get


def _onnxruntime(file: Path) -> Callable[[Arrays], Arrays]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


def _openvino(file: Path) -> Callable[[Arrays], Arrays]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(file, "CPU", settings)
    outputs = [port.get_any_name() for port in compiled.outputs]

    def call(inputs: Arrays) -> Arrays:
        result = compiled({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        return {name: result[name].copy() for name in outputs}

    return call
