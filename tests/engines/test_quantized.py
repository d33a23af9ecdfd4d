"""Quantized graphs on both engines stay near the reference in every call: encoder, prefill, steps, one pass.

The pass over a graph that loses a bias or joins the wrong columns errs by the size of the logits, rounding by a few
hundredths of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from edgewise.export.portable import portable_graphs
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.transformer import Transformer
from edgewise.quantize.schemes import SCHEMES, Kernel
from edgewise.runtime.engine import Engine

from ..open_model import open_files, write_variant
from ..runtime.torch_engine import TorchEngine

pytestmark = pytest.mark.slow
Floats = NDArray[np.float32]
ALL: list[tuple[str, Kernel]] = [
    (target, kernel)
    for precision in ("int8", "int8-fast")
    for target, kernels in SCHEMES[precision].kernels.items()
    for kernel in kernels
]
TARGETS_AND_KERNELS = list(dict.fromkeys(ALL))
IDS = np.array([[5, 6, 7, 9, 2], [9, 8, 2, 0, 0]])
PROMPT = np.array([[1, 12, 7, 30], [1, 4, 4, 21]])


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Widths that every kernel can carry; every parameter random, biases and norms too."""
    stack = StackConfig(n_layers=2, d_model=64, n_heads=2, d_ff=96)
    config = ModelConfig(
        vocab_size=40, max_positions=32, pad_id=0, start_id=1, end_id=2, encoder=stack, decoder=stack, head="vocabulary"
    )
    generator = torch.Generator().manual_seed(3)
    made = Transformer(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.15 if parameter.ndim > 1 else 0.5, generator=generator)
    return made


@pytest.fixture(scope="module")
def portable(model: Transformer) -> dict[str, ir.Model]:
    return portable_graphs(model)


def _calls(engine: Engine) -> dict[str, Floats]:
    """Logits of every kind of call."""
    memory = engine.encode_source(IDS, IDS != 0)
    found = {"one pass": engine.decoder_logits(memory, PROMPT, PROMPT != 0)}
    run = engine.start(memory, 2, 3, 12, 4)
    run.prefill(PROMPT)
    found["prefill"] = run.last_logits().copy()
    for t in range(4):
        run.step(np.arange(6) + 5 * t + 3, np.array([1, 0, 2, 4, 4, 3]))
    found["steps"] = run.last_logits().copy()
    run = engine.start(memory, 2, 1, 12, 4)
    run.prefill(PROMPT[:, :1])
    found["first step"] = run.last_logits().copy()
    return found


@pytest.mark.parametrize(("target", "kernel"), TARGETS_AND_KERNELS, ids=str)
def test_near_the_reference(
    target: str, kernel: Kernel, model: Transformer, portable: dict[str, ir.Model], tmp_path: Path
) -> None:
    engine = open_files(model, target, kernel, write_variant(portable, target, kernel, tmp_path / "graphs"))
    expected = _calls(TorchEngine(model))
    for name, actual in _calls(engine).items():
        error = float(np.sqrt(np.mean((actual - expected[name]) ** 2)) / expected[name].std())
        assert 0 < error < 0.05, name
