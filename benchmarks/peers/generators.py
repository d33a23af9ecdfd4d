"""The systems of S3: who continues prompts, with which files and settings; see :mod:`.systems`."""

from __future__ import annotations

from .systems import FASTEST, OWN_ENVIRONMENT, System


def _edgewise(
    precision: str, bits: float, model: str = "edgewise", *, exact: bool = False, extra: bool = False
) -> System:
    return System(
        name=f"edgewise-{precision}",
        adapter="text.edgewise",
        environment=OWN_ENVIRONMENT,
        model=model,
        settings={"target": "cpu", "precision": precision},
        files=(f"cpu-{precision}/*",),
        bits=bits,
        exact=exact,
        extra=extra,
    )


def _llama_cpp(kind: str, bits: float) -> System:
    """``bits`` with the scales of its blocks of 32."""
    return System(
        name=f"llama.cpp-{kind}",
        adapter="text.llama_cpp",
        environment="llama",
        model=f"gguf-{kind}",
        files=("*.gguf",),
        bits=bits,
    )


def _other(name: str, adapter: str, environment: str, bits: float, *files: str, exact: bool = False) -> System:
    return System(
        name=name, adapter=f"text.{adapter}", environment=environment, model=name, files=files, bits=bits, exact=exact
    )


_ALL = (
    _edgewise("int8", 8),
    _edgewise("int4", 4.5, "edgewise-int4"),
    _edgewise("fp32", 32, exact=True, extra=True),
    _llama_cpp("q4_0", 4.5),
    _llama_cpp("q4_1", 5),
    _llama_cpp("q8_0", 8.5),
    _other("onnxruntime-genai-int8", "onnxruntime_genai", "genai", 8, "*.onnx", "*.onnx.data"),
    _other("onnxruntime-genai-int4", "onnxruntime_genai", "genai", 4.5, "*.onnx", "*.onnx.data"),
    _other("openvino-genai-int8", "openvino_genai", "openvino", 8, "openvino_model.*"),
    _other("openvino-genai-int4", "openvino_genai", "openvino", 4.25, "openvino_model.*"),
    _other("ctranslate2-int8", "ctranslate2", "ctranslate2", 8, "model.bin"),
    System(
        name="ctranslate2-int8-avx512",
        adapter="text.ctranslate2",
        environment="ctranslate2",
        model="ctranslate2-int8",
        variables=FASTEST,
        files=("model.bin",),
    ),
    _other("optimum-onnx-int8", "optimum_onnx", "optimum", 8, "*.onnx", "*.onnx_data"),
    System(
        name="transformers-fp32",
        adapter="text.transformers",
        environment="optimum",
        model="llama",
        files=("model.safetensors",),
        bits=32,
        exact=True,
    ),
)
GENERATORS = {system.name: system for system in _ALL}
