"""The family of ``examples/opt_family.py`` against ``transformers``, as anybody's own file is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

from edgewise.errors import ConfigError
from edgewise.models.open import open_checkpoint

from .decoders import Compare, check_engines, check_reference, check_switches, decoder_folder
from .folders import change_json

pytestmark = pytest.mark.slow
FILE = Path(__file__).resolve().parents[2] / "examples" / "opt_family.py"
CASES: dict[str, dict[str, Any]] = {
    "as published": {},
    "untied": {"tie_word_embeddings": False, "enable_bias": False, "activation_function": "gelu"},
}


def opt_folder(folder: Path, **config: Any) -> Path:
    fields = {"vocab_size": 304, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48}
    fields |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2}
    return decoder_folder(folder, transformers.OPTConfig(**{**fields, **config}), seed=7, std=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: opt_folder(tmp_path_factory.mktemp("opt") / "tiny", **CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_reference(folder(case), assert_close, FILE)
    check_engines(folder(case), tmp_path, assert_close, FILE)


def test_a_case_tells_its_switches_apart(folder: Callable[[str], Path]) -> None:
    check_switches(folder("untied"), {"activation_function": "relu"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_layer_norm_before": False}, "do_layer_norm_before is False, expected True"),
        ({"word_embed_proj_dim": 16}, "word_embed_proj_dim is 16, expected 32"),
        ({"new_setting": 3}, r"new_setting \(3\) is not understood"),
    ],
)
def test_other_mathematics_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = opt_folder(tmp_path / "tiny")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder, FILE)
