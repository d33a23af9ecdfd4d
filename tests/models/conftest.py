"""Tiny networks for the properties of the reference, in float64 so that a wrong formula cannot hide in rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.transformer import Transformer


def _stack(**change: Any) -> StackConfig:
    return StackConfig(**{"n_layers": 2, "d_model": 16, "n_heads": 4, "d_ff": 24, **change})


def _network(architecture: str, **change: Any) -> Transformer:
    """``change`` goes to both stacks. Every parameter is random: zero biases and unit norms would hide a mix-up."""
    stacks = {"encoder": _stack(**change), "decoder": _stack(**{"n_layers": 3, **change})}
    config = ModelConfig(
        vocab_size=23,
        max_positions=40,
        pad_id=0,
        start_id=1,
        end_id=2,
        **{name: stacks[name] for name in architecture.split("-")},
    )
    generator = torch.Generator().manual_seed(5)
    model = Transformer(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    return model


@pytest.fixture
def stack_config() -> Callable[..., StackConfig]:
    """``stack_config(**change)``: the configuration of one tiny stack."""
    return _stack


@pytest.fixture
def network() -> Callable[..., Transformer]:
    """``network("encoder-decoder", norm_place="pre")``: a tiny random network in float64."""
    return _network


@pytest.fixture
def no_gradients() -> Any:
    """Weights are set and results compared without autograd."""
    with torch.no_grad():
        yield
