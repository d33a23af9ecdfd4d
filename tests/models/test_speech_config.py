"""Configurations of networks that hear: the JSON they become and come from, and every contradiction they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgewise.errors import ConfigError
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.speech import SpeechConfig

STACK: dict[str, Any] = {"n_layers": 2, "d_model": 8, "n_heads": 2, "d_ff": 16}
SPEECH: dict[str, Any] = {
    "bands": 4,
    "frames": 6,
    "no_timestamps_id": 7,
    "languages": {"en": 3, "de": 4},
    "transcribe_id": 5,
    "translate_id": 6,
    "begin_suppress": (2,),
    "max_initial_timestamp": 1,
}
MODEL: dict[str, Any] = {
    "vocab_size": 10,
    "max_positions": 32,
    "pad_id": 0,
    "start_id": 1,
    "end_id": 2,
    "positions": "learned",
    "encoder": StackConfig(**STACK),
    "decoder": StackConfig(**STACK),
}


def test_json_gives_back_the_same_configuration() -> None:
    config = ModelConfig(**MODEL, speech=SpeechConfig(**SPEECH))
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.speech is not None
    assert config.speech.positions == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": 0}, r"bands \(0\) must be positive"),
        ({"bands": 2**20 + 1}, r"bands \(1048577\) must be at most 1048576"),
        ({"frames": 5}, r"speech: frames \(5\) must be even: a state is made of two"),
        ({"frames": 2**24 + 2}, r"frames \(16777218\) must be at most 16777216"),
        ({"frames": 6.0}, r"speech: frames \(6.0\) must be an integer"),
        ({"no_timestamps_id": None}, r"speech: no_timestamps_id \(None\) must be an integer"),
        ({"translate_id": None}, r"transcribe_id and translate_id \(5, None\) belong to languages"),
        ({"languages": {}}, r"transcribe_id and translate_id \(5, 6\) belong to languages"),
        ({"languages": {"?": 3}}, "must be a language's code"),
        ({"begin_suppress": ("a",)}, r"begin_suppress \(\('a',\)\) must be token ids"),
        ({"max_initial_timestamp": -1}, r"max_initial_timestamp \(-1\) must not be negative"),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeechConfig(**{**SPEECH, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"previous_id": 10}, r"previous_id \(10\) must be a token id below vocab_size \(10\)"),
        ({"languages": {"en": 11}}, r"the token of language 'en' \(11\) must be a token id below"),
        ({"begin_suppress": (-1,)}, r"begin_suppress 0 \(-1\) must be a token id below"),
        ({"no_timestamps_id": 9}, r"no_timestamps_id \(9\) must have the tokens of times after it"),
    ],
)
def test_tokens_beyond_the_vocabulary_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**MODEL, speech=SpeechConfig(**{**SPEECH, **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": None}, "speech belongs to an encoder-decoder with learned positions, not to decoder"),
        ({"positions": "sinusoidal"}, "not to encoder-decoder with sinusoidal ones"),
        ({"forced_id": 3}, r"forced_id \(3\) belongs to a source of tokens, and this one is speech"),
        ({"adds_start": True}, r"adds_start \(True\) belongs to a source of tokens"),
        ({"token_types": 2}, "token_types belongs to a source of tokens, and this one is speech"),
    ],
)
def test_what_belongs_to_sources_of_tokens_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**{**MODEL, **change}, speech=SpeechConfig(**SPEECH))
