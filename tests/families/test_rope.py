"""Rotary positions beside those of ``transformers``: every kind, in both spellings, at sizes of published models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: TID251 also

from edgewise.errors import ConfigError
from edgewise.models.families.family import Fields
from edgewise.models.families.rope import rope_of
from edgewise.models.layers import rotary_frequencies
from edgewise.models.open import open_checkpoint
from edgewise.models.position_config import RopeConfig

from .decoders import Compare, check_engines, check_reference
from .folders import change_json, llama_folder

pytestmark = pytest.mark.slow
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
KINDS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": YARN,
    "yarn of the whole context": {"rope_type": "yarn", "factor": 4},
    "yarn of a smaller factor": {**YARN, "factor": 1.0},
    "yarn, attention": {**YARN, "attention_factor": 0.7},
    "yarn, two scales": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.3},
    "yarn, one scale": {**YARN, "mscale": 0.8},
    "yarn, turns": {**YARN, "beta_fast": 6.0, "beta_slow": 2.0},
    "yarn, exact": {**YARN, "beta_fast": 6, "beta_slow": 2, "truncate": False},
}


def read(config: dict[str, Any]) -> RopeConfig:
    fields = Fields(config, "here")
    make = rope_of(fields)
    assert not fields.faults
    return make()


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("positions", [96, 4096, 131_072])
@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_are_those_of_the_library(
    kind: str, positions: int, head_dim: int, theta: float, assert_close: Compare
) -> None:
    parameters = {**KINDS[kind], "rope_theta": theta}
    if "original_max_position_embeddings" in parameters:
        parameters["original_max_position_embeddings"] = positions // 3
    config = transformers.LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=positions,
        rope_parameters=dict(parameters),
    )
    expected, attention_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
    rope = read({"max_position_embeddings": positions, "rope_parameters": parameters})
    assert_close(rotary_frequencies(rope, head_dim), expected.double(), rtol=1e-5, atol=0.0)
    assert rope.attention_factor == pytest.approx(attention_factor, rel=1e-12)
    older = {"type": parameters.pop("rope_type"), **parameters}
    del older["rope_theta"]
    assert read({"max_position_embeddings": positions, "rope_theta": theta, "rope_scaling": older}) == rope


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(kind)``: a Llama that the library saved."""
    return cache(
        lambda kind: llama_folder(
            tmp_path_factory.mktemp("rope") / "tiny",
            starts=False,
            seed=len(kind),
            rope_parameters={**KINDS[kind], "rope_theta": 500.0},
        )
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "yarn of the whole context"])
def test_logits_are_those_of_the_library_up_to_the_end_of_the_context(
    kind: str, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    check_reference(folder(kind), assert_close, width=96)


def test_engines_give_the_librarys_logits_and_tokens(
    folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_engines(folder("yarn, attention"), tmp_path, assert_close)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**YARN, "factor": "4"}, r"factor \('4'\) must be a positive number"),
        ({**YARN, "mscale": "1"}, "mscale is '1', expected a positive number"),
        ({**YARN, "attention_factor": 0.0}, r"attention_factor \(0.0\) must be a positive number"),
        ({**YARN, "beta_fast": 1.0}, r"beta_slow \(1.0\) must be below beta_fast \(1.0\)"),
        ({**YARN, "truncate": 1}, r"truncate \(1.0\) must be true or false"),
        ({**YARN, "rope_theta": 0.5}, r"theta \(0.5\) must be above 1 for yarn scaling"),
        ({**YARN, "original_max_position_embeddings": 0}, r"yarn scaling needs original_positions; it is 0"),
        ({"rope_type": "yarn"}, r"rope type 'yarn' has \[\], expected \['factor'\], and perhaps \['attention_factor'"),
        ({"rope_type": "dynamic", "factor": -1.0}, r"factor \(-1.0\) must be a positive number"),
        ({"rope_type": "dynamic"}, r"rope type 'dynamic' has \[\], expected \['factor'\]"),
    ],
)
def test_parameters_that_are_none(
    changes: dict[str, Any], message: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder("linear"), tmp_path / "copy"))
    change_json(copy / "config.json", rope_parameters=changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"original_positions": 8}, "original_positions belong to llama3 and yarn scaling only"),
        ({"attention_factor": 2.0}, r"attention_factor \(2.0\) belongs to yarn scaling only"),
    ],
)
def test_scalings_that_contradict_themselves(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RopeConfig(**fields)


def test_what_yarn_multiplies_queries_and_keys_by_is_in_the_tables(folder: Callable[[str], Path]) -> None:
    rotary = open_checkpoint(folder("yarn, attention")).model.rotary
    assert rotary is not None
    length = rotary.cosine**2 + rotary.sine**2
    torch.testing.assert_close(length, torch.full_like(length, 0.49))
