"""Qwen against ``transformers``, from the folder to the bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint

from .decoders import TINY, Compare, check_bundle, check_engines, check_reference, check_switches, decoder_folder
from .folders import change_json

pytestmark = pytest.mark.slow
ROPE = {"rope_type": "default", "rope_theta": 1e4}
CASES: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": True, "rms_norm_eps": 0.1, "hidden_act": "gelu"},
    "qwen2, windows": {
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
        "num_hidden_layers": 3,
        "layer_types": None,
    },
    "qwen2, a key a head": {"num_key_value_heads": 4, "rope_parameters": {**ROPE, "rope_theta": 50.0}},
    "qwen3": {"head_dim": 32, "attention_bias": True, "rms_norm_eps": 0.1, "hidden_act": "gelu"},
    "qwen3, windows": {
        "head_dim": 16,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
        "rope_parameters": {**ROPE, "rope_theta": 50.0},
    },
}
PLAIN = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_parameters": ROPE, "sliding_window": 96}


def qwen_folder(folder: Path, case: str, std: float = 0.4) -> Path:
    kind = {"qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}[case.partition(",")[0]]
    return decoder_folder(folder, kind(**{**TINY, "rope_parameters": ROPE, **CASES[case]}), seed=len(case), std=std)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: qwen_folder(tmp_path_factory.mktemp("qwen") / "tiny", case))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_reference(folder(case), assert_close)
    check_engines(folder(case), tmp_path, assert_close)


@pytest.mark.parametrize("case", CASES)
def test_a_case_tells_its_switches_apart(case: str, folder: Callable[[str], Path]) -> None:
    check_switches(folder(case), {name: value for name, value in PLAIN.items() if name in CASES[case]})


@pytest.mark.parametrize("case", ["qwen2", "qwen3"])
def test_a_bundle_replays_the_reference(case: str, tmp_path: Path) -> None:
    check_bundle(qwen_folder(tmp_path / "tiny", case, std=0.2), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_mrope": True}, "use_mrope is True, expected False"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types has 'sliding_attention', but there is no sliding_window",
        ),
        ({"layer_types": ["full_attention"]}, "expected 'full_attention' or 'sliding_attention' for each of 2 layers"),
        ({"layer_types": ["full_attention", "linear"]}, r"layer_types is \['full_attention', 'linear'\], expected"),
        ({"attention_bias": True}, r"attention_bias \(True\) is not understood"),
        ({"eos_token_id": None}, "eos_token_id is null, by which no text ever ends: name the token"),
    ],
)
def test_other_mathematics_is_refused(
    changes: dict[str, Any], message: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    made = qwen_folder(tmp_path / "tiny", "qwen2")
    (made / "generation_config.json").unlink()
    change_json(made / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(made)


def test_heads_whose_width_is_not_stated_are_128_wide(folder: Callable[[str], Path], tmp_path: Path) -> None:
    made = Path(shutil.copytree(folder("qwen3"), tmp_path / "copy"))
    change_json(made / "config.json", head_dim=None)
    with pytest.raises(CheckpointError, match=r"attention.query.weight has shape \(128, 64\), expected \(512, 64\)"):
        open_checkpoint(made)


def test_layers_that_slide_in_a_file_without_layer_types(folder: Callable[[str], Path], tmp_path: Path) -> None:
    made = Path(shutil.copytree(folder("qwen2, windows"), tmp_path / "copy"))
    expected = open_checkpoint(made).model.config
    assert expected.decoder is not None
    assert (expected.decoder.window, expected.decoder.windowed_layers) == (7, (1, 2))
    change_json(made / "config.json", layer_types=None)
    assert open_checkpoint(made).model.config == expected
    change_json(made / "config.json", sliding_window=96)  # as long as the context
    assert open_checkpoint(made).model.config.decoder.window is None  # type: ignore[union-attr]


def test_without_a_start_token_the_end_token_begins_an_empty_text(tmp_path: Path) -> None:
    made = qwen_folder(tmp_path / "tiny", "qwen2")
    change_json(made / "config.json", bos_token_id=None)
    config = open_checkpoint(made).model.config
    assert (config.start_id, config.end_id, config.starts_text) == (0, 0, False)
