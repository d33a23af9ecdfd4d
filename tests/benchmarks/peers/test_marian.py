"""The network in Marian's order of dimensions is the same network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edgewise.benchmarks.peers import marian
from edgewise.errors import ConfigError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.transformer import Transformer

SOURCE = torch.tensor([[7, 20, 300, 41, 2], [9, 9, 100, 2, 0]])
TARGET = torch.tensor([[1, 50, 60, 70], [1, 399, 5, 8]])


def logits(model: Transformer) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model(SOURCE, TARGET))


def moved(checkpoint: Checkpoint, positions: torch.Tensor) -> Transformer:
    """The reference with the weights in Marian's order, and these positions."""
    config = checkpoint.model.config
    state = marian.in_halves(marian.reference_state(checkpoint), config.d_model)
    model = Transformer(config).eval()
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()})
    model.positions = positions
    return model


def test_moving_the_dimensions_changes_nothing(small: Checkpoint, assert_close: Callable[..., None]) -> None:
    positions = small.model.positions[:, marian.halves(64)]
    assert_close(logits(moved(small, positions)), logits(small.model), atol=1e-4)


def test_positions_left_where_they_were_are_noticed(small: Checkpoint) -> None:
    difference = logits(moved(small, small.model.positions)) - logits(small.model)
    assert difference.abs().max() > 0.1


def test_the_order_is_that_of_marians_positions(small: Checkpoint, assert_close: Callable[..., None]) -> None:
    """All sines, then all cosines, from the formula: Junczys-Dowmunt's Marian and transformers' copy of it."""
    theirs = [[fn(p / 10000 ** (2 * i / 64)) for fn in (math.sin, math.cos) for i in range(32)] for p in range(64)]
    assert_close(small.model.positions[:, marian.halves(64)], np.array(theirs, np.float32), atol=1e-6)


def test_every_tensor_has_a_name_there_and_one_only(small: Checkpoint) -> None:
    names = marian.marian_names(small.model.config)
    assert names.keys() == small.model.state_dict().keys()
    assert len(set(names.values())) == len(names)


def test_a_tensor_of_another_network_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"classifier.weight is in no network of Marian's: only post-norm"):
        marian.in_halves({"classifier.weight": np.zeros((2, 8), np.float32)}, 8)


@pytest.mark.parametrize("change", [{"norm_place": "pre"}, {"norm_epsilon": 1e-6}], ids=str)
def test_another_shape_is_refused(small: Checkpoint, change: dict[str, object]) -> None:
    config = small.model.config
    assert config.decoder is not None
    with pytest.raises(ConfigError, match=r"cannot be written as Marian's: it needs .* post-norm, epsilon 1e-5"):
        marian.marian_config(replace(config, decoder=replace(config.decoder, **change)))


def test_a_decoder_alone_is_refused(small: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="None cannot be written as Marian's"):
        marian.marian_config(replace(small.model.config, encoder=None))


def test_a_folder_holds_configuration_and_weights(small: Checkpoint, tmp_path: Path) -> None:
    marian.write_marian(small, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["decoder_layers"], config["encoder_ffn_dim"]) == ("marian", 6, 256)
    assert (config["pad_token_id"], config["decoder_start_token_id"], config["eos_token_id"]) == (0, 1, 2)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["final_logits_bias"].shape == (1, 400)
    assert tensors["model.encoder.embed_positions.weight"].shape == (64, 64)
    assert len(tensors) == len(small.model.state_dict()) + 2
