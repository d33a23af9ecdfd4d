"""Mistral against ``transformers``, from the folder to the bundle: with windows and without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

from edgewise.errors import ConfigError
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.open import open_checkpoint

from .decoders import (
    TINY,
    Compare,
    check_bundle,
    check_engines,
    check_reference,
    check_switches,
    decoder_folder,
    library,
)
from .folders import change_json

pytestmark = pytest.mark.slow
ROPE = {"rope_type": "default", "rope_theta": 1e4}
CASES: dict[str, dict[str, Any]] = {
    "no window": {"sliding_window": None, "tie_word_embeddings": True, "rms_norm_eps": 0.1, "hidden_act": "gelu"},
    "windows": {"sliding_window": 6, "rope_parameters": {**ROPE, "rope_theta": 50.0}},
    "windows, a key a head": {"sliding_window": 9, "num_key_value_heads": 4},
}
PLAIN = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_parameters": ROPE, "sliding_window": None}


def mistral_folder(folder: Path, case: str, std: float = 0.4) -> Path:
    config = transformers.MistralConfig(**{**TINY, "rope_parameters": ROPE, **CASES[case]})
    return decoder_folder(folder, config, seed=len(case), std=std, starts=case == "no window")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: mistral_folder(tmp_path_factory.mktemp("mistral") / "tiny", case))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_reference(folder(case), assert_close)
    check_engines(folder(case), tmp_path, assert_close)


@pytest.mark.parametrize("case", CASES)
def test_a_case_tells_its_switches_apart(case: str, folder: Callable[[str], Path]) -> None:
    plain = {name: value for name, value in PLAIN.items() if CASES[case].get(name) is not None}
    check_switches(folder(case), plain)


def test_a_bundle_replays_the_reference(tmp_path: Path) -> None:
    check_bundle(mistral_folder(tmp_path / "tiny", "windows", std=0.2), tmp_path / "bundle")


def test_a_file_that_says_nothing_of_windows_means_the_librarys_default(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder("no window"), tmp_path / "copy"))
    data = json.loads((copy / "config.json").read_text())
    assert data.pop("sliding_window", None) is None
    (copy / "config.json").write_text(json.dumps(data))
    assert open_checkpoint(copy).model.config.decoder.window is None  # type: ignore[union-attr]
    data["max_position_embeddings"] = 8192
    (copy / "config.json").write_text(json.dumps(data))
    assert open_checkpoint(copy).model.config.decoder.window == 4096  # type: ignore[union-attr]
    (copy / "config.json").write_text(json.dumps({**data, "sliding_window": None}))
    assert open_checkpoint(copy).model.config.decoder.window is None  # type: ignore[union-attr]


@pytest.mark.parametrize("kinds", [["full_attention", "sliding_attention"], ["full_attention"] * 2])
def test_layers_that_a_file_names_are_those_of_the_library(
    kinds: list[str], folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    copy = Path(shutil.copytree(folder("windows"), tmp_path / "copy"))
    change_json(copy / "config.json", layer_types=kinds)
    assert library(copy).config.model_type == "ministral"
    check_reference(copy, assert_close)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": 0}, r"window \(0\) must be positive"),
        ({"sliding_window": "8"}, "sliding_window is '8', expected int"),
        ({"attention_bias": True}, r"attention_bias \(True\) is not understood"),
    ],
)
def test_other_mathematics_is_refused(
    changes: dict[str, Any], message: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder("windows"), tmp_path / "copy"))
    change_json(copy / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(copy)


STACK = {"n_layers": 2, "d_model": 8, "n_heads": 2, "d_ff": 8}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"windowed_layers": (1,)}, r"windowed_layers \(1,\) belong to a window"),
        ({"window": 4, "windowed_layers": (2,)}, r"windowed_layers \(2\) must be below n_layers \(2\)"),
        ({"window": 4, "windowed_layers": ("1",)}, r"windowed_layers \(\('1',\)\) must be layers"),
    ],
)
def test_windows_that_contradict_the_stack(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StackConfig(**STACK, **fields)


def test_windows_go_through_json_and_belong_to_no_encoder_beside_a_decoder() -> None:
    stack = StackConfig(**STACK, window=4, windowed_layers=(1,))
    network = {"vocab_size": 9, "max_positions": 9, "pad_id": 0, "start_id": 1, "end_id": 2}
    config = ModelConfig(**network, decoder=stack)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ConfigError, match="a window belongs to a decoder, or to an encoder alone"):
        ModelConfig(**network, encoder=stack, decoder=StackConfig(**STACK))
