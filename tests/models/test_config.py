"""Configurations: the JSON they become and come from, and every contradiction they refuse."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from edgewise.errors import ConfigError
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.dense_config import DenseConfig
from edgewise.models.position_config import RelativeConfig, RopeConfig

STACK: dict[str, Any] = {"n_layers": 2, "d_model": 8, "n_heads": 2, "d_ff": 16}
MODEL: dict[str, Any] = {"vocab_size": 10, "max_positions": 32, "pad_id": 0, "start_id": 1, "end_id": 2}
ENCODER: dict[str, Any] = {**MODEL, "encoder": StackConfig(**STACK)}

CONFIGS = {
    "encoder-decoder": ModelConfig(
        **MODEL, encoder=StackConfig(**STACK, norm_place="pre"), decoder=StackConfig(**STACK, activation="gelu")
    ),
    "decoder": ModelConfig(**MODEL, decoder=StackConfig(**STACK), positions="relative", relative=RelativeConfig()),
    "encoder": ModelConfig(**ENCODER, head="classes", class_names=("bad", "good")),
    "vectors": ModelConfig(**ENCODER, head="embedding", pooling="mean", dense=DenseConfig(width=4, activation="tanh")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_json_gives_back_the_same_configuration(name: str) -> None:
    config = CONFIGS[name]
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("name", ["encoder-decoder", "decoder", "encoder"])
def test_the_stacks_are_the_architecture(name: str) -> None:
    assert CONFIGS[name].architecture == name
    assert CONFIGS[name].d_model == 8


def test_heads_share_the_width() -> None:
    assert StackConfig(**{**STACK, "d_model": 12, "n_heads": 3}).head_width == 4
    assert StackConfig(**{**STACK, "n_heads": 3, "head_dim": 6}).head_width == 6


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGS["decoder"].vocab_size = 11  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 0}, r"n_layers \(0\) must be positive"),
        ({"d_model": -8}, r"d_model \(-8\) must be positive"),
        ({"n_heads": 0}, r"n_heads \(0\) must be positive"),
        ({"d_ff": 0}, r"d_ff \(0\) must be positive"),
        ({"n_layers": 257}, r"n_layers \(257\) must be at most 256"),
        ({"d_model": 10**30}, r"d_model \(10+\) must be at most 1048576"),
        ({"n_heads": 1025}, r"n_heads \(1025\) must be at most 1024"),
        ({"d_ff": 2**20 + 1}, r"d_ff \(1048577\) must be at most 1048576"),
        ({"n_heads": 3}, r"d_model \(8\) must be a multiple of n_heads \(3\)"),
        ({"head_dim": 0}, r"head_dim \(0\) must be positive"),
        ({"head_dim": 2**20 + 1}, r"head_dim \(1048577\) must be at most 1048576"),
        ({"d_model": 9, "n_heads": 3}, r"d_model \(9\) must be even"),
        ({"n_layers": 2.0}, r"n_layers \(2.0\) must be an integer"),
        ({"n_layers": True}, r"n_layers \(True\) must be an integer"),
        ({"n_layers": None}, r"n_layers \(None\) must be an integer"),
        ({"d_ff": "16"}, r"d_ff \('16'\) must be an integer"),
        ({"norm_place": "middle"}, r"norm_place \('middle'\) must be one of 'post', 'pre'"),
        ({"activation": None}, r"activation \(None\) must be one of 'relu', 'gelu'"),
        ({"attention_scale": -1.0}, r"attention_scale \(-1.0\) must be a positive number"),
        ({"norm_epsilon": 0.0}, r"norm_epsilon \(0.0\) must be a positive number"),
        ({"norm_epsilon": float("nan")}, r"norm_epsilon \(nan\) must be a positive number"),
        ({"norm_epsilon": float("inf")}, r"norm_epsilon \(inf\) must be a positive number"),
        ({"norm_epsilon": "1e-5"}, r"norm_epsilon \('1e-5'\) must be a positive number"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_stack_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StackConfig(**{**STACK, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": None}, "a model needs an encoder, a decoder, or both; this one has neither"),
        (
            {"decoder": StackConfig(**{**STACK, "d_model": 16})},
            r"encoder d_model \(8\) must equal decoder d_model \(16\)",
        ),
        ({"encoder": STACK}, r"encoder \(.*\) must be a StackConfig or None"),
        ({"decoder": 3}, r"decoder \(3\) must be a StackConfig or None"),
        ({"max_positions": 0}, r"max_positions \(0\) must be positive"),
        ({"max_positions": 10**30}, r"max_positions \(10+\) must be at most 16777216"),
        ({"vocab_size": 2**24 + 1}, r"vocab_size \(16777217\) must be at most 16777216"),
        ({"token_types": 10**30}, r"token_types \(10+\) must be at most 16777216"),
        ({"vocab_size": 0}, r"pad_id \(0\) must be a token id below vocab_size \(0\)"),
        ({"vocab_size": "10"}, r"vocab_size \('10'\) must be an integer"),
        ({"pad_id": -1}, r"pad_id \(-1\) must be a token id below vocab_size \(10\)"),
        ({"start_id": 10}, r"start_id \(10\) must be a token id below vocab_size \(10\)"),
        ({"end_id": 10}, r"end_id \(10\) must be a token id below vocab_size \(10\)"),
        ({"mask_id": 10}, r"mask_id \(10\) must be a token id below vocab_size \(10\)"),
        ({"mask_id": 1.5}, r"mask_id \(1.5\) must be an integer"),
        ({"start_id": None}, r"start_id \(None\) must be an integer"),
        ({"head": "regression"}, r"head \('regression'\) must be one of 'vocabulary', 'classes'"),
        (
            {"head": "classes", "class_names": ("a", "b"), "decoder": StackConfig(**STACK)},
            "a 'classes' head needs an encoder-only model; this one has a decoder",
        ),
        (
            {"head": "classes", "class_names": ("a",)},
            "a 'classes' head needs at least 2 class_names; there are 1",
        ),
        ({"class_names": ("a", "b")}, r"class_names \('a', 'b'\) belong to the 'classes' and 'tags' heads"),
        ({"head": "tags", "class_names": ("a",)}, "a 'tags' head needs at least 2 class_names; there are 1"),
        (
            {"head": "tags", "class_names": ("a", "b"), "decoder": StackConfig(**STACK)},
            "a 'tags' head needs an encoder-only model",
        ),
        (
            {"head": "span", "decoder": StackConfig(**STACK)},
            "a 'span' head needs an encoder-only model; this one has a decoder",
        ),
        ({"head": "span"}, "a 'span' head needs pair_between: it reads pairs"),
        ({"pair_between": (99_999,)}, r"pair_between \(99999\) must be token ids below vocab_size"),
        ({"pair_between": (1,), "decoder": StackConfig(**STACK)}, "pair_between .* belongs to an encoder alone"),
        ({"pair_between": (True,)}, "pair_between .* must be token ids"),
        ({"second_segment": 1}, r"second_segment \(1\) must be from 0 to 0"),
        ({"pair_between": (1,), "token_types": 2, "second_segment": 2}, r"second_segment \(2\) must be from 0 to 1"),
        ({"pooler": "tanh"}, r"pooler \('tanh'\) belongs to the 'classes' head only"),
        ({"class_scores": "sigmoid"}, r"class_scores \('sigmoid'\) belong to the 'classes' head only"),
        (
            {"head_transform": "gelu", "decoder": StackConfig(**STACK)},
            "head_transform belongs to an encoder alone whose head gives no vectors",
        ),
        (
            {"mask_splits_text": True, "head": "embedding", "pooling": "mean"},
            "mask_splits_text belongs to the vocabulary of an encoder alone",
        ),
        ({"encoder": StackConfig(**STACK, norm_place="pre", parallel=True)}, "parallel sub-layers are for a decoder"),
        ({"embedding_width": 4}, "embedding_width is for an encoder alone, and its vocabulary needs a head_transform"),
        ({"embedding_width": 0, "head_transform": "gelu"}, r"embedding_width \(0\) must be positive"),
        ({"embedding_width": 4, "decoder": StackConfig(**STACK)}, "embedding_width is for an encoder alone"),
        ({"dense": DenseConfig(width=4)}, "dense belongs to the 'embedding' head only"),
        ({"normalize": True}, "normalize belongs to the 'embedding' head only"),
        ({"positions": "relative"}, r"relative \(None\) belongs to relative positions, and they to it"),
        ({"relative": RelativeConfig()}, r"relative \(RelativeConfig.*\) belongs to relative positions"),
        (
            {"scale_outputs": True, "head_transform": "gelu"},
            "scale_outputs and a head_transform exclude each other",
        ),
        (
            {"scale_outputs": True, "head": "embedding", "pooling": "mean"},
            "a 'embedding' head has no output projection to scale for",
        ),
        ({"class_names": ("a", 2)}, r"class_names \(\('a', 2\)\) must be strings"),
        ({"class_names": "ab"}, r"class_names \('ab'\) must be strings"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_model_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**{**ENCODER, **change})


def test_rotary_positions_refuse_a_context_beyond_any_network() -> None:
    with pytest.raises(ConfigError, match=r"original_positions \(10+\) must be at most 16777216"):
        RopeConfig(scaling="llama3", factor=8.0, original_positions=10**30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"buckets": 3}, r"buckets \(3\) must be at least 4: two on each side of a query"),
        ({"max_distance": 16}, r"max_distance \(16\) must be above half of the buckets \(32\)"),
        ({"max_distance": 10**30}, r"max_distance \(10+\) must be at most 16777216"),
        ({"buckets": 8.0}, r"buckets \(8.0\) must be an integer"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_relative_positions_refuse(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RelativeConfig(**change)


def test_parallel_sub_layers_are_normalized_before() -> None:
    with pytest.raises(ConfigError, match="parallel sub-layers need norm_place 'pre'"):
        StackConfig(**STACK, parallel=True)


@pytest.mark.parametrize(
    ("dim", "message"),
    [
        (3, r"rotary_dim \(3\) must be even"),
        (0, r"rotary_dim \(0\) must be positive"),
        (6, r"rotary_dim \(6\) must be at most head_dim \(4\)"),
    ],
)
def test_numbers_of_a_head_that_turn(dim: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**MODEL, decoder=StackConfig(**STACK), positions="rotary", rope=RopeConfig(rotary_dim=dim))


@pytest.mark.parametrize("width", [0, 2**20 + 1])
def test_a_dense_layer_has_a_width_that_networks_have(width: int) -> None:
    with pytest.raises(ConfigError, match=rf"width \({width}\) must be"):
        DenseConfig(width=width)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "ModelConfig must be a JSON object; it is list"),
        (None, "ModelConfig must be a JSON object; it is NoneType"),
        (
            {"vocab_size": 10, "colour": "red"},
            r"unknown fields \['colour'\], missing fields \['end_id', 'max_positions', 'pad_id', 'start_id'\]",
        ),
        ({**MODEL, "encoder": 0}, "StackConfig must be a JSON object; it is int"),
        ({**MODEL, "encoder": {**STACK, "dropout": 0.1}}, r"StackConfig: unknown fields \['dropout'\]"),
        ({**MODEL, "decoder": {"n_layers": 2}}, r"missing fields \['d_ff', 'd_model', 'n_heads'\]"),
        ({**MODEL, "encoder": STACK, "class_names": [1, 2]}, r"class_names \(\(1, 2\)\) must be strings"),
    ],
    ids=["list", "null", "unknown and missing", "stack is a number", "stack unknown", "stack missing", "names"],
)
def test_json_from_outside_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_json(data)


def test_reading_leaves_the_json_as_it_was() -> None:
    data = CONFIGS["encoder"].to_json()
    before = json.dumps(data)
    ModelConfig.from_json(data)
    assert json.dumps(data) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_start_id": 3}, r"source_start_id \(3\) belongs to an encoder-decoder, not to one stack alone"),
        ({"forced_id": 3}, r"forced_id \(3\) belongs to an encoder-decoder, not to one stack alone"),
        ({"forced_id": 10}, r"forced_id \(10\) must be a token id below vocab_size \(10\)"),
        ({"decoder_embeddings": True}, "decoder_embeddings belong to .* not to decoder with sinusoidal ones"),
    ],
)
def test_what_only_an_encoder_decoder_has(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**MODEL, decoder=StackConfig(**STACK), **change)


def test_what_a_decoder_reads_first() -> None:
    stacks = {"encoder": StackConfig(**STACK), "decoder": StackConfig(**STACK)}
    assert ModelConfig(**MODEL, **stacks).decoder_prompt == (1,)
    assert ModelConfig(**MODEL, **stacks, forced_id=4).decoder_prompt == (1, 4)
