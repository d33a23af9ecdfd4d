"""Phi-3 against ``transformers``, from the folder to the bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from safetensors.torch import load_file, save_file

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint

from .decoders import TINY, Compare, check_bundle, check_engines, check_reference, check_switches, decoder_folder
from .folders import change_json, write_json

pytestmark = pytest.mark.slow
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 4.5],
    "long_factor": [3.0, 4.5, 6.0, 9.0, 12.0, 18.0],
    "partial_rotary_factor": 0.75,
}
CASES: dict[str, dict[str, Any]] = {
    "as Phi-3": {"num_key_value_heads": 4, "sliding_window": 7},
    "as Phi-4": {
        "tie_word_embeddings": True,
        "rms_norm_eps": 0.1,
        "hidden_act": "gelu_pytorch_tanh",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.75},
    },
    "wide heads": {
        "head_dim": 24,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.75},
    },
    "longrope": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32},
}
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "more_transformers_4_57_1.json").read_text())


def phi3_folder(folder: Path, std: float = 0.4, **config: Any) -> Path:
    """A folder of a ``Phi3ForCausalLM``; ``config`` changes its ``Phi3Config``."""
    return decoder_folder(folder, transformers.Phi3Config(**{**TINY, **config}), seed=7, std=std)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: phi3_folder(tmp_path_factory.mktemp("phi3") / "tiny", **CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_library(case: str, folder: Callable[[str], Path], assert_close: Compare) -> None:
    check_reference(folder(case), assert_close, width=32 if case == "longrope" else 60)


@pytest.mark.parametrize("case", ["as Phi-3", "as Phi-4"])
def test_engines_give_the_librarys_logits_and_tokens(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_engines(folder(case), tmp_path, assert_close)


def test_a_case_tells_its_switches_apart(folder: Callable[[str], Path]) -> None:
    check_switches(folder("as Phi-3"), {"sliding_window": None})
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}
    check_switches(folder("as Phi-4"), {"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_parameters": rope})


def test_a_bundle_replays_the_reference(tmp_path: Path) -> None:
    check_bundle(phi3_folder(tmp_path / "tiny", std=0.1, **CASES["as Phi-4"]), tmp_path / "bundle")


def test_longrope_ends_with_the_original_context(folder: Callable[[str], Path]) -> None:
    checkpoint = open_checkpoint(folder("longrope"))
    assert (checkpoint.model.config.max_positions, checkpoint.max_context) == (32, 32)
    assert checkpoint.model.config.rope is not None
    assert checkpoint.model.config.rope.rotary_dim == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 9.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_theta": 9.0, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}},
        {
            "original_max_position_embeddings": 32,
            "rope_parameters": {**LONGROPE, "original_max_position_embeddings": 16},
        },
    ],
    ids=["theta", "theta beside", "original"],
)
def test_what_is_said_twice_means_what_it_means_to_the_library(
    changes: dict[str, Any], tmp_path: Path, assert_close: Compare
) -> None:
    """Logits of the configuration as it is written."""
    made = phi3_folder(tmp_path / "tiny", **CASES["as Phi-4"])
    change_json(made / "config.json", **changes)
    check_reference(made, assert_close, width=32)


@pytest.mark.parametrize("length", [2**70, -(2**70), 10**400])
def test_a_huge_length_is_refused(length: int, tmp_path: Path) -> None:
    made = phi3_folder(tmp_path / "tiny", **CASES["longrope"])
    change_json(made / "config.json", max_position_embeddings=length)
    with pytest.raises(ConfigError, match="factor is inf, expected a positive number"):
        open_checkpoint(made)


@pytest.mark.parametrize("case", [name for name in GOLDEN if name.startswith("Phi3")])
def test_a_configuration_of_release_4(case: str, tmp_path: Path) -> None:
    """Its factors stand beside ``rope_scaling``."""
    made = phi3_folder(tmp_path / "tiny", **CASES[case.partition(", ")[2]])
    expected = open_checkpoint(made).model.config
    write_json(made / "config.json", GOLDEN[case])
    assert open_checkpoint(made).model.config == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias is True, expected False"),
        ({"lm_head_bias": True}, "lm_head_bias is True, expected False"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types is .*, expected None"),
        ({"rms_norm_eps": None}, "rms_norm_eps is missing"),
        ({"new_setting": 3}, r"new_setting \(3\) is not understood"),
    ],
)
def test_other_mathematics_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = phi3_folder(tmp_path / "tiny")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder)


def test_a_fused_matrix_of_another_size(tmp_path: Path) -> None:
    folder = phi3_folder(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.qkv_proj.weight"] = torch.zeros(127, 64)
    save_file(tensors, folder / "model.safetensors")
    message = r"missing decoder.layers.1.attention.key.weight.*unexpected model.layers.1.self_attn.qkv_proj.weight"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)
