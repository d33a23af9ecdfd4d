"""Gemma 2 and 3 against ``transformers``, from the folder to the bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from safetensors.torch import load_file, save_file

from edgewise.errors import ConfigError
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.open import open_checkpoint
from edgewise.models.position_config import RelativeConfig, RopeConfig

from .decoders import TINY, Compare, check_bundle, check_engines, check_reference, check_switches, decoder_folder
from .folders import change_json

pytestmark = pytest.mark.slow
ROPE = {"rope_type": "default", "rope_theta": 1e4}
ROPES = {"full_attention": {**ROPE, "rope_theta": 1e6}, "sliding_attention": ROPE}
CASES: dict[str, dict[str, Any]] = {
    "gemma2": {
        "head_dim": 32,
        "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 4.0,
        "sliding_window": 7,
        "attention_bias": True,
        "rms_norm_eps": 0.1,
        "hidden_activation": "silu",
        "tie_word_embeddings": False,
    },
    "gemma2, a key a head": {
        "head_dim": 16,
        "num_key_value_heads": 4,
        "sliding_window": 9,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {**ROPE, "rope_theta": 50.0},
    },
    "gemma3": {
        "head_dim": 16,
        "query_pre_attn_scalar": 5,
        "sliding_window": 7,
        "attention_bias": True,
        "rms_norm_eps": 0.1,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    },
    "gemma3, final cap": {
        "head_dim": 32,
        "num_hidden_layers": 3,
        "sliding_window": 96,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "final_logit_softcapping": 3.0,
        "hidden_activation": "relu",
    },
}
PLAIN = {
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
}


def gemma_folder(folder: Path, case: str, std: float = 0.4) -> Path:
    kind, ropes = {"gemma2": (transformers.Gemma2Config, ROPE), "gemma3": (transformers.Gemma3TextConfig, ROPES)}[
        case.partition(",")[0]
    ]
    config = kind(**{**TINY, "rope_parameters": ropes, **CASES[case]})
    return decoder_folder(folder, config, seed=len(case), std=std, starts=case == "gemma3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: gemma_folder(tmp_path_factory.mktemp("gemma") / "tiny", case))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_reference(folder(case), assert_close)
    check_engines(folder(case), tmp_path, assert_close)


@pytest.mark.parametrize("case", CASES)
def test_a_case_tells_its_switches_apart(case: str, folder: Callable[[str], Path]) -> None:
    plain = {name: value for name, value in PLAIN.items() if name in CASES[case]}
    if case.startswith("gemma3"):
        plain["rope_parameters"] = {**ROPES, "sliding_attention": ROPES["full_attention"]}
    else:
        plain["sliding_window"] = 96
    check_switches(folder(case), plain)


@pytest.mark.parametrize("case", ["gemma2", "gemma3"])
def test_a_bundle_replays_the_reference(case: str, tmp_path: Path) -> None:
    check_bundle(gemma_folder(tmp_path / "tiny", case, std=0.2), tmp_path / "bundle")


def test_norms_of_half_precision_are_added_to_one_in_float32(folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("gemma3"), tmp_path / "copy"))
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors")
    norm = open_checkpoint(copy).model.decoder.final_norm.weight  # type: ignore[union-attr]
    assert torch.equal(norm, 1 + tensors["model.norm.weight"].float())


@pytest.mark.parametrize("case", ["gemma2", "gemma3"])
def test_a_file_without_layer_types_alternates_as_the_library_does(
    case: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder(case), tmp_path / "copy"))
    data = json.loads((copy / "config.json").read_text())
    expected = open_checkpoint(copy).model.config
    del data["layer_types"]
    pattern = {"sliding_window_pattern": 2} if case == "gemma3" else {}
    (copy / "config.json").write_text(json.dumps({**data, **pattern}))
    assert open_checkpoint(copy).model.config == expected
    if case == "gemma3":  # every sixth
        (copy / "config.json").write_text(json.dumps(data))
        assert open_checkpoint(copy).model.config.decoder.windowed_layers is None  # type: ignore[union-attr]


def test_a_pattern_that_the_library_writes_and_does_not_read(
    folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    """``_sliding_window_pattern``: beside ``layer_types``, which goes before; without it every sixth layer sees all."""
    copy = Path(shutil.copytree(folder("gemma3"), tmp_path / "copy"))
    change_json(copy / "config.json", layer_types=None, _sliding_window_pattern=2)
    check_reference(copy, assert_close)


def test_two_thetas_as_older_files_write_them(folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("gemma3"), tmp_path / "copy"))
    expected = open_checkpoint(copy).model.config
    older = {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.5}, "rope_local_base_freq": 50}
    change_json(copy / "config.json", rope_parameters=None, **older)
    assert open_checkpoint(copy).model.config == expected
    change_json(copy / "config.json", rope_parameters=None, rope_theta=None, rope_scaling=None)
    change_json(copy / "config.json", rope_local_base_freq=None)
    found = open_checkpoint(copy).model.config
    assert (found.rope, found.window_rope) == (RopeConfig(theta=1e6), RopeConfig(theta=1e4))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, expected False"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0, expected a positive number"),
        ("gemma2", {"attn_logit_softcapping": -1.0}, r"attention_cap \(-1.0\) must be a positive number"),
        ("gemma2", {"attn_logit_softcapping": 10**400}, r"attention_cap \(inf\) must be a positive number"),
        ("gemma2", {"final_logit_softcapping": 10**400}, r"logit_cap \(inf\) must be a positive number"),
        ("gemma2", {"query_pre_attn_scalar": 10**400}, r"attention_scale \(0.0\) must be a positive number"),
        ("gemma2", {"final_logit_softcapping": 0}, r"logit_cap \(0.0\) must be a positive number"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0, expected None"),
        ("gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0, expected a positive number"),
        ("gemma3", {"rope_parameters": ROPE}, "an object for 'full_attention' and one for 'sliding_attention'"),
        ("gemma3", {"rope_local_base_freq": 5.0}, "rope_local_base_freq is 5.0, expected None"),
        ("gemma3", {"new_setting": 3}, r"new_setting \(3\) is not understood"),
    ],
)
def test_other_mathematics_is_refused(
    case: str, changes: dict[str, Any], message: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder(case), tmp_path / "copy"))
    change_json(copy / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(copy)


NETWORK = {"vocab_size": 9, "max_positions": 9, "pad_id": 0, "start_id": 1, "end_id": 2}
STACK = {"n_layers": 2, "d_model": 8, "n_heads": 2, "d_ff": 8}


def test_what_belongs_to_windows_and_vocabularies() -> None:
    rotary = {"positions": "rotary", "rope": RopeConfig(), "window_rope": RopeConfig(theta=5.0)}
    config = ModelConfig(**NETWORK, **rotary, decoder=StackConfig(**STACK, window=3), logit_cap=2.0)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ConfigError, match="window_rope belongs to a stack with rotary positions and a window"):
        ModelConfig(**NETWORK, **rotary, decoder=StackConfig(**STACK))
    for stack in ({"window": 3}, {"attention_cap": 2.0}):
        message = "relative positions go with neither a window nor an attention_cap"
        with pytest.raises(ConfigError, match=message):
            ModelConfig(
                **NETWORK, positions="relative", relative=RelativeConfig(), decoder=StackConfig(**STACK, **stack)
            )
    with pytest.raises(ConfigError, match="a 'tags' head has no vocabulary that could have a logit_cap"):
        ModelConfig(**NETWORK, encoder=StackConfig(**STACK), head="tags", class_names=("a", "b"), logit_cap=2.0)
