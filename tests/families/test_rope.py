"""Rotary positions beside those of ``transformers``: every kind, in both spellings, at sizes of published models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: TID251 also

import edgewise
from edgewise.errors import ConfigError, InputError
from edgewise.models.config import ModelConfig
from edgewise.models.families.family import Fields
from edgewise.models.families.rope import rope_of
from edgewise.models.layers import rotary_frequencies
from edgewise.models.open import open_checkpoint
from edgewise.models.position_config import RopeConfig

from ..bundles import export_few
from .decoders import Compare, check_engines, check_reference, library, library_greedy
from .folders import change_json, llama_folder

pytestmark = pytest.mark.slow
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 32,
    "short_factor": [1.0, 1.5, 2, 2.5, 3.0, 4.5, 7.25, 10.0],
    "long_factor": [3.0, 4.5, 6.0, 9.0, 12.0, 18.0, 30.0, 60.0],
}
"""Of heads of 16 numbers, as those of :func:`llama_folder`."""
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
    "longrope": LONGROPE,
    "longrope, factor": {**LONGROPE, "factor": 5},
    "longrope, attention": {**LONGROPE, "attention_factor": 0.7},
    "longrope of a smaller factor": {**LONGROPE, "factor": 0.5},
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
    for name in {"short_factor", "long_factor"} & parameters.keys():
        parameters[name] = [1 + i / 8 for i in range(head_dim // 2)]
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


AT_ONCE = [kind for kind in KINDS if kind != "yarn of the whole context" and not kind.startswith("longrope")]


@pytest.mark.parametrize("kind", AT_ONCE)
def test_logits_are_those_of_the_library_up_to_the_end_of_the_context(
    kind: str, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    check_reference(folder(kind), assert_close, width=96)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("longrope")])
def test_longrope_is_read_within_the_original_context(
    kind: str, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    """Beyond, the library turns every token by other angles, those before it too."""
    check_reference(folder(kind), assert_close, width=32)
    checkpoint = open_checkpoint(folder(kind))
    assert (checkpoint.model.config.max_positions, checkpoint.max_context) == (32, 32)
    ids = torch.randint(2, 300, (1, 33), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        long, short = (library(folder(kind))(part).logits[:, :32] for part in (ids, ids[:, :32]))
    assert (long - short).abs().max() > 0.01


def test_longrope_in_a_bundle_ends_with_the_original_context(folder: Callable[[str], Path], tmp_path: Path) -> None:
    export_few(folder("longrope"), tmp_path / "b", ("cpu", "openvino"), ("fp32",))
    original = library(folder("longrope"))
    for target in ("cpu", "openvino"):
        with edgewise.load(tmp_path / "b", target, "fp32", threads=1) as session:
            assert session.verify().ok
            found = session.generate("The man", max_new_tokens=20)
            prompt = list(found.source_tokens)
            assert len(prompt) + len(found.tokens) <= 32
            assert list(found.tokens) == library_greedy(original, prompt, len(found.tokens))
            with pytest.raises(InputError, match="32"):
                session.generate("a b c d e f g h i j k l m n o p q r s t u v w x y z")


def test_longrope_verifies_in_integers(tmp_path: Path) -> None:
    rope = {**KINDS["longrope, attention"], "rope_theta": 500.0}
    folder = llama_folder(tmp_path / "tiny", starts=False, std=0.15, rope_parameters=rope)  # as int8 is meant for
    export_few(folder, tmp_path / "b", precisions=("fp32", "int8"))
    texts = ["The man rides", "schön und 👧", "3+4=7"]
    for target in ("cpu", "openvino"):
        scores = []
        for precision in ("fp32", "int8"):
            with edgewise.load(tmp_path / "b", target, precision, threads=1) as session:
                report = session.verify()
                assert report.ok, report.summary()
                scores.append([session.score(text).token_log_probs for text in texts])
        for whole, rounded in zip(*scores, strict=True):
            assert rounded == pytest.approx(whole, abs=0.2)
            assert rounded != whole  # they are integers at all


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
        ({**YARN, "beta_fast": 1e308}, r"beta_slow \(1.0\) and beta_fast \(1e\+308\) must be from 1e-06 to 1e\+06"),
        ({**YARN, "beta_slow": 1e-320}, r"beta_slow \(1e-320\) and beta_fast \(32.0\) must be from 1e-06 to 1e\+06"),
        ({**YARN, "truncate": 1}, r"truncate \(1.0\) must be true or false"),
        ({**YARN, "rope_theta": 0.5}, r"theta \(0.5\) must be above 1 for yarn scaling"),
        ({**YARN, "original_max_position_embeddings": 0}, r"yarn scaling needs original_positions; it is 0"),
        ({"rope_type": "yarn"}, r"rope type 'yarn' has \[\], expected \['factor'\], and perhaps \['attention_factor'"),
        ({"rope_type": "dynamic", "factor": -1.0}, r"factor \(-1.0\) must be a positive number"),
        ({**LONGROPE, "short_factor": 2.0}, "short_factor is 2.0, expected a list of numbers"),
        ({**LONGROPE, "short_factor": []}, r"short_factor is \[\], expected a list of numbers"),
        ({**LONGROPE, "short_factor": [1.0] * 7}, r"short_factors \(7\) must be half of head_dim \(16\): one a pair"),
        ({**LONGROPE, "short_factor": [0.0] * 8}, r"short_factors \(\(0.0, .*\) must be positive numbers"),
        ({**LONGROPE, "short_factor": ["1"] * 8}, r"short_factors \(\('1', .*\) must be positive numbers"),
        ({**LONGROPE, "factor": -1}, "factor is -1.0, expected a positive number"),
        ({**LONGROPE, "attention_factor": "1"}, r"attention_factor \('1'\) must be a positive number"),
        (
            {**LONGROPE, "original_max_position_embeddings": 1},
            "original_max_position_embeddings is 1, expected an integer of 2 and more",
        ),
        (
            {"rope_type": "longrope"},
            r"rope type 'longrope' has \[\], expected \['long_factor', 'orig.*'short_factor'\]",
        ),
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
        ({"original_positions": 8}, "original_positions belong to llama3, yarn and longrope scaling only"),
        ({"attention_factor": 2.0}, r"attention_factor \(2.0\) belongs to yarn and longrope scaling only"),
        ({"short_factors": (2.0,)}, r"short_factors \(1\) belong to longrope scaling"),
        ({"scaling": "longrope", "original_positions": 8}, r"short_factors \(0\) belong to longrope scaling"),
    ],
)
def test_scalings_that_contradict_themselves(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RopeConfig(**fields)


def test_a_network_of_longrope_is_no_longer_than_its_factors_hold(folder: Callable[[str], Path]) -> None:
    config = open_checkpoint(folder("longrope")).model.config
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ConfigError, match=r"max_positions \(33\) must be at most original_positions \(32\): beyond"):
        replace(config, max_positions=33)


def test_what_yarn_multiplies_queries_and_keys_by_is_in_the_tables(folder: Callable[[str], Path]) -> None:
    rotary = open_checkpoint(folder("yarn, attention")).model.rotary
    assert rotary is not None
    length = rotary.cosine**2 + rotary.sine**2
    torch.testing.assert_close(length, torch.full_like(length, 0.49))
