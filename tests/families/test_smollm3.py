"""SmolLM3 against ``transformers``, from the folder to the bundle: layers without positions, windows or none."""

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
from edgewise.models.position_config import RopeConfig

from .decoders import TINY, Compare, check_bundle, check_engines, check_reference, check_switches, decoder_folder
from .folders import change_json

pytestmark = pytest.mark.slow
ROPE = {"rope_type": "default", "rope_theta": 1e4}
CASES: dict[str, dict[str, Any]] = {
    "every second": {
        "no_rope_layer_interval": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "rms_norm_eps": 0.1,
        "hidden_act": "gelu",
        "tie_word_embeddings": False,
    },
    "the first, windows, a key a head": {
        "no_rope_layers": [0, 1],
        "use_sliding_window": True,
        "sliding_window": 7,
        "num_key_value_heads": 4,
        "rope_parameters": {**ROPE, "rope_theta": 50.0},
    },
}
PLAIN = {
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_parameters": ROPE,
    "no_rope_layers": [1, 1],
    "use_sliding_window": False,
}


def smollm3_folder(folder: Path, case: str, std: float = 0.4) -> Path:
    config = transformers.SmolLM3Config(**{**TINY, "rope_parameters": ROPE, **CASES[case]})
    return decoder_folder(folder, config, seed=len(case), std=std)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: smollm3_folder(tmp_path_factory.mktemp("smollm3") / "tiny", case))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_reference(folder(case), assert_close)
    check_engines(folder(case), tmp_path, assert_close)


@pytest.mark.parametrize("case", CASES)
def test_a_case_tells_its_switches_apart(case: str, folder: Callable[[str], Path]) -> None:
    given = {*CASES[case], "no_rope_layers"} - {"use_sliding_window"}
    check_switches(folder(case), {name: value for name, value in PLAIN.items() if name in given})


def test_a_bundle_replays_the_reference(tmp_path: Path) -> None:
    check_bundle(smollm3_folder(tmp_path / "tiny", "every second", std=0.2), tmp_path / "bundle")


def test_a_file_without_a_list_means_every_so_manieth_layer(folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("every second"), tmp_path / "copy"))
    expected = open_checkpoint(copy).model.config
    assert expected.decoder is not None
    assert expected.decoder.unturned_layers == (1,)
    data = json.loads((copy / "config.json").read_text())
    del data["no_rope_layers"], data["layer_types"]
    (copy / "config.json").write_text(json.dumps(data))
    assert open_checkpoint(copy).model.config == expected
    del data["no_rope_layer_interval"]  # 4
    (copy / "config.json").write_text(json.dumps(data))
    assert open_checkpoint(copy).model.config.decoder.unturned_layers == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_rope_layers": [1]}, r"no_rope_layers is \[1\], expected 1 or 0 for each of 2 layers"),
        ({"no_rope_layers": [1, True]}, r"no_rope_layers is \[1, True\], expected 1 or 0"),
        ({"no_rope_layers": [0, 0]}, r"unturned_layers \(0, 1\) must leave a layer that has positions"),
        ({"no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layer_interval is 0, expected a positive"),
        ({"new_setting": 3}, r"new_setting \(3\) is not understood"),
    ],
)
def test_other_mathematics_is_refused(
    changes: dict[str, Any], message: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder("every second"), tmp_path / "copy"))
    change_json(copy / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(copy)


def test_layers_without_positions_belong_to_rotary_ones() -> None:
    network = {"vocab_size": 9, "max_positions": 9, "pad_id": 0, "start_id": 1, "end_id": 2}
    stack = StackConfig(n_layers=2, d_model=8, n_heads=2, d_ff=8, unturned_layers=(1,))
    config = ModelConfig(**network, decoder=stack, positions="rotary", rope=RopeConfig())
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ConfigError, match="unturned_layers belong to rotary positions"):
        ModelConfig(**network, decoder=stack)
    with pytest.raises(ConfigError, match=r"unturned_layers \(2\) must be below n_layers \(2\)"):
        StackConfig(n_layers=2, d_model=8, n_heads=2, d_ff=8, unturned_layers=(2,))
