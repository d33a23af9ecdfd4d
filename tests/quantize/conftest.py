"""A small network whose widths are multiples of 32, so that every kernel can carry its matrices."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from edgewise.export.portable import portable_graphs
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.transformer import Transformer


@pytest.fixture(scope="session")
def model() -> Transformer:
    stack = StackConfig(n_layers=1, d_model=32, n_heads=2, d_ff=64)
    config = ModelConfig(
        vocab_size=40, max_positions=32, pad_id=0, start_id=1, end_id=2, encoder=stack, decoder=stack, head="vocabulary"
    )
    torch.manual_seed(1)
    return Transformer(config).eval()


@pytest.fixture(scope="session")
def portable(model: Transformer) -> dict[str, ir.Model]:
    """Its portable graphs; nobody changes them."""
    return portable_graphs(model)
