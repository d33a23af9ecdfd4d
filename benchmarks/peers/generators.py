"""The systems of S3: who continues prompts, with which files and settings; see :mod:`.systems`."""

from __future__ import annotations

from .systems import FASTEST, OWN_ENVIRONMENT, System

VOCABULARY_SHARE = 0.2105
"""Of SmolLM2-135M's weights that a step reads, 106 168 320 in layers and 28 311 552 in the output projection."""


def _mixed(layers: float, vocabulary: float) -> float:
    """Bits of a weight on the mean, of those of layers and of the output projection."""
    return (1 - VOCABULARY_SHARE) * layers + VOCABULARY_SHARE * vocabulary


# Bits with what belongs to a block. Of 32 weights: in edgewise and onnxruntime-genai a scale of float32, in the four
# bits of edgewise also a zero point of 4 bits and an offset of float32; in llama.cpp a scale of float16, in Q4_1 also a
# minimum of float16. Of 64 in OpenVINO: a scale of float16 and a zero point of 4 bits. The output projection keeps 8
# bits in all but onnxruntime-genai.
_OUR_8, _LLAMA_8 = 8 + 32 / 32, 8 + 16 / 32
_OUR_4 = _mixed(4 + (32 + 4 + 32) / 32, _OUR_8)
_OPENVINO_4 = _mixed(4 + (16 + 4) / 64, 8)


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
    """``bits`` of its layers; the output projection has Q8_0 in all."""
    return System(
        name=f"llama.cpp-{kind}",
        adapter="text.llama_cpp",
        environment="llama",
        model=f"gguf-{kind}",
        files=("*.gguf",),
        bits=_mixed(bits, _LLAMA_8),
    )


def _other(name: str, adapter: str, environment: str, bits: float, *files: str, exact: bool = False) -> System:
    return System(
        name=name, adapter=f"text.{adapter}", environment=environment, model=name, files=files, bits=bits, exact=exact
    )


_ALL = (
    _edgewise("int8", _OUR_8),
    _edgewise("int4", _OUR_4, "edgewise-int4"),
    _edgewise("fp32", 32, exact=True, extra=True),
    _llama_cpp("q4_0", 4 + 16 / 32),
    _llama_cpp("q4_1", 4 + (16 + 16) / 32),
    _llama_cpp("q8_0", _LLAMA_8),
    _other("onnxruntime-genai-int8", "onnxruntime_genai", "genai", 8 + 32 / 32, "*.onnx", "*.onnx.data"),
    _other("onnxruntime-genai-int4", "onnxruntime_genai", "genai", 4 + 32 / 32, "*.onnx", "*.onnx.data"),
    _other("openvino-genai-int8", "openvino_genai", "openvino", 8, "openvino_model.*"),
    _other("openvino-genai-int4", "openvino_genai", "openvino", _OPENVINO_4, "openvino_model.*"),
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
