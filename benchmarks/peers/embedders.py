"""The systems of S4: who makes vectors, with which files and settings; see :mod:`.systems`."""

from __future__ import annotations

from .systems import FASTEST, OURS, OWN_ENVIRONMENT, System

_ALL = (
    System(
        name=OURS,
        adapter="embedding.edgewise",
        environment=OWN_ENVIRONMENT,
        model="edgewise",
        settings={"target": "cpu", "precision": "int8"},
        files=("cpu-int8/*",),
    ),
    System(
        name="edgewise-fp32",
        adapter="embedding.edgewise",
        environment=OWN_ENVIRONMENT,
        model="edgewise",
        settings={"target": "cpu", "precision": "fp32"},
        files=("cpu-fp32/*",),
        bits=32,
        exact=True,
    ),
    System(
        name="onnxruntime-int8-by-hand",
        adapter="embedding.onnxruntime",
        environment=OWN_ENVIRONMENT,
        model="onnx-int8-per-channel",
        files=("*.onnx",),
    ),
    System(
        name="openvino-int8-by-hand",
        adapter="embedding.openvino",
        environment=OWN_ENVIRONMENT,
        model="openvino-int8",
        files=("openvino_model.*",),
    ),
    System(
        name="openvino-int8-nncf",
        adapter="embedding.openvino",
        environment=OWN_ENVIRONMENT,
        model="openvino-int8-nncf",
        files=("openvino_model.*",),
    ),
    System(
        name="ctranslate2-int8",
        adapter="embedding.ctranslate2",
        environment="ctranslate2",
        model="ctranslate2-int8",
    ),
    System(
        name="ctranslate2-int8-avx512",
        adapter="embedding.ctranslate2",
        environment="ctranslate2",
        model="ctranslate2-int8",
        variables=FASTEST,
    ),
    System(
        name="optimum-onnx-int8",
        adapter="embedding.optimum_onnx",
        environment="optimum",
        model="onnx-int8",
        files=("*.onnx",),
    ),
    System(
        name="optimum-intel-int8",
        adapter="embedding.optimum_intel",
        environment="openvino",
        model="openvino-int8",
        files=("openvino_model.*",),
    ),
    System(
        name="sentence-transformers-fp32",
        adapter="embedding.sentence_transformers",
        environment="optimum",
        model="sentence-transformers",
        files=("model.safetensors",),
        bits=32,
        exact=True,
    ),
)
EMBEDDERS = {system.name: system for system in _ALL}
