"""The bounds of one network and of another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from torch import nn

from edgewise.models.checkpoint import load_checkpoint
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.speech import SpeechConfig
from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.noise import HEARD_AGREEMENT, MOST, PRODUCTS, products, tolerance_of
from edgewise.runtime.tolerances import TOLERANCES

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
SHIPPED = ("translate-en-de", "captions-lm", "captions-mlm", "sentiment")
GROWING = ("logit", "logit_rms", "log_prob", "margin", "fold")


def spec(n_layers: int = 2, vocab_size: int = 1000) -> ModelSpec:
    """A Llama's shape: seven products a layer."""
    stack = StackConfig(n_layers=n_layers, d_model=32, n_heads=4, d_ff=64, norm_place="pre", gated=True, n_kv_heads=2)
    ids = {"pad_id": 0, "start_id": 1, "end_id": 2}
    return ModelSpec.from_json(ModelConfig(vocab_size=vocab_size, max_positions=16, **ids, decoder=stack).to_json())


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_networks_meet_the_bounds_as_they_stand(name: str, precision: str) -> None:
    model = ModelSpec.from_json(load_checkpoint(CHECKPOINTS / name).model.config.to_json())
    assert tolerance_of(precision, model) == TOLERANCES[precision]


def test_products_are_the_linear_layers_and_the_output_projection() -> None:
    stack = StackConfig(n_layers=3, d_model=32, n_heads=4, d_ff=64)
    ids = {"pad_id": 0, "start_id": 1, "end_id": 2}
    for stacks in ({"encoder": stack, "decoder": stack}, {"decoder": dataclasses.replace(stack, gated=True)}):
        config = ModelConfig(vocab_size=50, max_positions=16, **ids, **stacks)
        layers = [m for m in Transformer(config).modules() if isinstance(m, nn.Linear)]
        assert products(ModelSpec.from_json(config.to_json())) == len(layers) + 1


@pytest.mark.parametrize("precision", ["int8", "int8-fast"])
def test_of_a_deep_network_the_bounds_are_wider_and_vectors_are_bound_alike(precision: str) -> None:
    found, as_they_stand = tolerance_of(precision, spec(30)), TOLERANCES[precision]
    for name in GROWING:
        assert getattr(found, name) == pytest.approx(211 / PRODUCTS * getattr(as_they_stand, name))
    for name in ("agreement", "vector", "vector_rms"):
        assert getattr(found, name) == getattr(as_they_stand, name)
    deepest = tolerance_of(precision, spec(200))
    assert deepest.logit_rms == pytest.approx(MOST * as_they_stand.logit_rms)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_float32_and_int4_are_bound_alike_but_for_longer_sums(precision: str) -> None:
    assert tolerance_of(precision, spec()) == TOLERANCES[precision]
    found = tolerance_of(precision, spec(vocab_size=72_000))
    assert found == dataclasses.replace(TOLERANCES[precision], fold=pytest.approx(3 * TOLERANCES[precision].fold))


def test_of_a_deep_network_sums_of_float32_alone_are_less_sure() -> None:
    assert tolerance_of("int4", spec(30)) == TOLERANCES["int4"]
    fold = pytest.approx(211 / PRODUCTS * TOLERANCES["fp32"].fold)
    assert tolerance_of("fp32", spec(30)) == dataclasses.replace(TOLERANCES["fp32"], fold=fold)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_of_a_network_that_hears_the_bounds_of_rounded_rows_are_the_widest(precision: str) -> None:
    stack = StackConfig(n_layers=1, d_model=32, n_heads=4, d_ff=64, norm_place="pre")
    speech = SpeechConfig(bands=80, frames=3000, no_timestamps_id=900)
    ids = {"pad_id": 0, "start_id": 1, "end_id": 2}
    config = ModelConfig(
        **{"vocab_size": 1000, "max_positions": 16, **ids, "encoder": stack, "decoder": stack, "speech": speech},
        positions="learned",
    )
    found, as_they_stand = tolerance_of(precision, ModelSpec.from_json(config.to_json())), TOLERANCES[precision]
    if precision in ("fp32", "int4"):
        assert found == as_they_stand
        return
    for name in GROWING:
        assert getattr(found, name) == pytest.approx(MOST * getattr(as_they_stand, name))
    assert found.agreement == HEARD_AGREEMENT < as_they_stand.agreement
