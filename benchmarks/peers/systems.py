"""The systems that are compared: which adapter, in which environment, on which files, with which settings.

Settings are those that the systems themselves offer. Where one has a faster setting than its default, both are rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OURS = "edgewise-int8"
"""What the others are compared with."""
OWN_ENVIRONMENT = ""
"""The environment of edgewise itself, ``.venv``."""
ENVIRONMENTS = ("ctranslate2", "optimum", "openvino", "llama", "genai")
"""The others, folders under ``PEERS``; the libraries of each are pinned in ``requirements/``."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of a table. ``model`` is a folder under the workload's; ``variables`` are set before it starts."""

    name: str
    adapter: str
    environment: str
    model: str
    settings: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    bits: float = 8
    """Of a weight that a step reads, on the mean; with scales and the like where blocks have them."""
    files: tuple[str, ...] = ()
    """Patterns of the files that it opens, where the folder has others, too."""
    exact: bool = False
    """Computes in float32, so it must give the reference's tokens: :mod:`.check` sees to it."""
    extra: bool = False
    """Measured only when asked for by name."""


# CTranslate2 4.8 uses AVX-512 only when told to (its cpu_isa.cc), and packs weights only where MKL multiplies.
FASTEST = {"CT2_FORCE_CPU_ISA": "AVX512", "CT2_PACKED_GEMM": "1"}
# optimum's decoder comes twice: one graph for every step, and two, for the first step and for later ones.
_MERGED = ("encoder_model*.onnx", "decoder_model_merged*.onnx")
_APART = ("encoder_model*.onnx", "decoder_model.onnx", "decoder_model_quantized.onnx", "decoder_with_past*.onnx")

_ALL = (
    System(
        name=OURS,
        adapter="edgewise",
        environment=OWN_ENVIRONMENT,
        model="edgewise",
        settings={"target": "cpu", "precision": "int8"},
        files=("cpu-int8/*",),
    ),
    System(name="ctranslate2-int8", adapter="ctranslate2", environment="ctranslate2", model="ctranslate2-int8"),
    System(
        name="ctranslate2-int8-avx512",
        adapter="ctranslate2",
        environment="ctranslate2",
        model="ctranslate2-int8",
        variables=FASTEST,
    ),
    System(name="optimum-onnx-int8", adapter="optimum_onnx", environment="optimum", model="onnx-int8", files=_MERGED),
    System(
        name="onnxruntime-int8-by-hand",
        adapter="onnxruntime",
        environment=OWN_ENVIRONMENT,
        model="onnx-int8",
        files=_APART,
    ),
    System(name="optimum-intel-int8", adapter="optimum_intel", environment="openvino", model="openvino-int8"),
    System(
        name="transformers-fp32", adapter="transformers", environment="optimum", model="marian", bits=32, exact=True
    ),
    System(
        name="edgewise-openvino-int8",
        adapter="edgewise",
        environment=OWN_ENVIRONMENT,
        model="edgewise",
        settings={"target": "openvino", "precision": "int8"},
        files=("openvino-int8/*",),
        extra=True,
    ),
    System(
        name="edgewise-fp32",
        adapter="edgewise",
        environment=OWN_ENVIRONMENT,
        model="edgewise",
        settings={"target": "cpu", "precision": "fp32"},
        files=("cpu-fp32/*",),
        bits=32,
        exact=True,
        extra=True,
    ),
    System(
        name="ctranslate2-fp32",
        adapter="ctranslate2",
        environment="ctranslate2",
        model="ctranslate2-float32",
        bits=32,
        exact=True,
        extra=True,
    ),
    System(
        name="onnxruntime-fp32-by-hand",
        adapter="onnxruntime",
        environment=OWN_ENVIRONMENT,
        model="onnx-fp32",
        files=_APART,
        bits=32,
        exact=True,
        extra=True,
    ),
)
SYSTEMS = {system.name: system for system in _ALL}
