"""An encoder with rotary positions and windows: its variants against PyTorch, and what their passes leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgewise.export.passes.encoder_attention import fuse_encoder_attention
from edgewise.export.passes.patterns import finish
from edgewise.export.portable import portable_graphs
from edgewise.export.variants import variant_graphs
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.position_config import RopeConfig
from edgewise.models.transformer import Transformer

from ..conftest import Arrays
from .conftest import compute, decoder_sizes, random_inputs

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
Run = Callable[[str, Path, Arrays], Arrays]
STACK: dict[str, Any] = {"n_layers": 3, "d_model": 16, "n_heads": 4, "d_ff": 24, "norm_place": "pre", "gated": True}
CASES: dict[str, dict[str, Any]] = {
    "all windows": {"window": 3, "norm_bias": False, "first_norm": False, "attention_bias": False},
    "some windows, shared heads": {"window": 4, "windowed_layers": (0, 2), "n_kv_heads": 2},
    "none": {"n_kv_heads": 1},
}


@cache
def reference(case: str) -> Transformer:
    """Every parameter is random."""
    stack = StackConfig(**STACK, **CASES[case])
    ropes = {"rope": RopeConfig(theta=50.0), "window_rope": RopeConfig(theta=5.0) if stack.window else None}
    ids = {"vocab_size": 29, "max_positions": 80, "pad_id": 0, "start_id": 1, "end_id": 2}
    config = ModelConfig(**ids, **ropes, positions="rotary", encoder=stack, embedding_norm=True)  # type: ignore[arg-type]
    model, generator = Transformer(config).eval().requires_grad_(False), torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.normal_(std=0.4, generator=generator)
    return model


@cache
def portable(case: str) -> ir.Model:
    return portable_graphs(reference(case))["encoder"]


@pytest.mark.parametrize(("batch", "source"), [(1, 1), (3, 7), (2, 70)], ids=str)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_variants_are_the_reference(
    case: str, engine: str, batch: int, source: int, tmp_path: Path, run: Run, assert_close: Compare
) -> None:
    model = variant_graphs({"encoder": portable(case)}, {"onnxruntime": "cpu"}.get(engine, engine))["encoder"]
    ir.save(model, tmp_path / "encoder.onnx")
    inputs = random_inputs(model, decoder_sizes(batch, 1, 1, 0, source))
    lengths = np.array([source, 1, source // 2])[:batch, None]
    inputs["mask"] = np.arange(source) < lengths
    expected = reference(case).encode(torch.from_numpy(inputs["ids"]), torch.from_numpy(inputs["mask"])).numpy()
    found = run(engine, tmp_path / "encoder.onnx", inputs)["hidden"]
    assert np.isfinite(found).all()  # padding beyond every window sees nothing at all
    assert_close(found[inputs["mask"]], expected[inputs["mask"]])


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_in_fewer_operators(case: str, assert_close: Compare) -> None:
    model = portable(case)
    fused = finish(fuse_encoder_attention(model.clone()), 23)
    before, after = (Counter(node.op_type for node in m.graph) for m in (model, fused))
    assert after["RotaryEmbedding"] == before["RotaryEmbedding"] == 2 * 3
    assert before["Transpose"] - after["Transpose"] == 3 * 4
    inputs = random_inputs(model, decoder_sizes(3, 1, 1, 0, 9))
    inputs["mask"] = np.arange(9) < np.array([[9], [2], [5]])
    expected, actual = compute(model, inputs), compute(fused, inputs)
    assert_close(actual["hidden"][inputs["mask"]], expected["hidden"][inputs["mask"]])
