"""GPT-NeoX and Pythia against ``transformers``, from the folder to the bundle."""

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
from edgewise.models.families.gpt_neox import turned_rows
from edgewise.models.open import open_checkpoint

from .decoders import Compare, check_bundle, check_engines, check_reference, check_switches, decoder_folder
from .folders import change_json, write_json

pytestmark = pytest.mark.slow
ROPE = {"rope_type": "default", "rope_theta": 500.0}
CASES: dict[str, dict[str, Any]] = {
    "as published": {},
    "one after the other": {
        "use_parallel_residual": False,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "hidden_act": "relu",
        "layer_norm_eps": 0.1,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5},
    },
    "whole heads": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}},
    "stretched": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 500.0,
            "original_max_position_embeddings": 32,
            "partial_rotary_factor": 0.5,
        }
    },
}
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "more_transformers_4_57_1.json").read_text())


def neox_folder(folder: Path, std: float = 0.4, **config: Any) -> Path:
    """A folder of a ``GPTNeoXForCausalLM``; ``config`` changes its ``GPTNeoXConfig``."""
    fields = {"vocab_size": 304, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    fields |= {"intermediate_size": 48, "max_position_embeddings": 96, "bos_token_id": 1, "eos_token_id": 0}
    return decoder_folder(folder, transformers.GPTNeoXConfig(**{**fields, **config}), seed=7, std=std)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: neox_folder(tmp_path_factory.mktemp("neox") / "tiny", **CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_library(case: str, folder: Callable[[str], Path], assert_close: Compare) -> None:
    check_reference(folder(case), assert_close)


@pytest.mark.parametrize("case", ["as published", "one after the other"])
def test_engines_give_the_librarys_logits_and_tokens(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_engines(folder(case), tmp_path, assert_close)


def test_a_case_tells_its_switches_apart(folder: Callable[[str], Path]) -> None:
    plain = {"use_parallel_residual": True, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    plain |= {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}}
    check_switches(folder("one after the other"), plain)


def test_a_bundle_replays_the_reference(tmp_path: Path) -> None:
    check_bundle(neox_folder(tmp_path / "tiny", std=0.1), tmp_path / "bundle")


@pytest.mark.parametrize("case", [name for name in GOLDEN if name.startswith("GPTNeoX")])
@torch.no_grad()
def test_a_configuration_of_release_4(case: str, tmp_path: Path) -> None:
    """Its fields are ``rotary_pct`` and ``rotary_emb_base``."""
    made = neox_folder(tmp_path / "tiny", **CASES["one after the other" if "," in case else "as published"])
    expected = open_checkpoint(made).model.config
    write_json(made / "config.json", GOLDEN[case])
    assert open_checkpoint(made).model.config == expected


def test_what_is_said_twice_means_what_it_means_to_the_library(tmp_path: Path, assert_close: Compare) -> None:
    made = neox_folder(tmp_path / "tiny")
    change_json(made / "config.json", rotary_emb_base=9, rope_parameters={**ROPE, "rope_theta": 500.0})
    check_reference(made, assert_close)


def test_rows_of_a_head_that_turn_go_apart() -> None:
    assert turned_rows(8, 4) == [0, 1, 4, 5, 2, 3, 6, 7]
    assert turned_rows(8, 8) == list(range(8))
    assert turned_rows(8, 2) == [0, 2, 3, 4, 1, 5, 6, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_decoder": True}, "is_decoder is True, expected False"),
        ({"new_setting": 3}, r"new_setting \(3\) is not understood"),
        ({"rope_parameters": {**ROPE, "partial_rotary_factor": 0}}, "rotary_pct is 0, expected a number above 0"),
        ({"rope_parameters": {**ROPE, "partial_rotary_factor": 0.2}}, r"rotary_dim \(3\) must be even"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters stand beside rope_scaling, which"),
        ({"hidden_size": 10**400}, "d_model"),
        ({"hidden_size": 66}, r"must be a multiple of n_heads \(4\)"),
    ],
)
def test_other_mathematics_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = neox_folder(tmp_path / "tiny")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder)


def test_a_fused_matrix_of_another_size(tmp_path: Path) -> None:
    folder = neox_folder(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.layers.1.attention.query_key_value.bias"] = torch.zeros(191)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"query_key_value.bias has shape \(191,\), expected 3 equal parts"):
        open_checkpoint(folder)
