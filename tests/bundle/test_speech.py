"""Speech in a manifest: prompts by hand, and contradictions that are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgewise.errors import BundleFormatError
from edgewise.models.speech import SpeechConfig
from edgewise.runtime.bundle.model_spec import ModelSpec, StackSpec
from edgewise.runtime.bundle.schema import to_json
from edgewise.runtime.bundle.speech import SpeechSpec

SEVERAL: dict[str, Any] = {
    "bands": 80,
    "frames": 3000,
    "no_timestamps_id": 90,
    "languages": {"en": 51, "de": 52},
    "transcribe_id": 60,
    "translate_id": 61,
    "previous_id": 62,
}
ONE: dict[str, Any] = {"bands": 80, "frames": 3000, "no_timestamps_id": 90}
STACK = StackSpec(n_layers=1, d_model=8, n_heads=2, d_ff=8, norm_place="pre", activation="gelu", norm_epsilon=1e-5)
SIZES = {"vocab_size": 100, "max_positions": 40, "pad_id": 50, "start_id": 49, "end_id": 50}
HEAD = {"head": "vocabulary", "mask_id": None, "class_names": (), "positions": "learned"}


def model(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {**SIZES, **HEAD, "encoder": STACK, "decoder": STACK, "speech": SpeechSpec(**SEVERAL)}
    return ModelSpec(**{**fields, **changes})


def test_fields_are_those_of_the_reference() -> None:
    names = [field.name for field in dataclasses.fields(SpeechConfig)]
    assert [field.name for field in dataclasses.fields(SpeechSpec)] == names


def test_prompts_by_hand() -> None:
    several, one = SpeechSpec(**SEVERAL), SpeechSpec(**ONE)
    assert several.prompt(49, "de", "transcribe", False) == (49, 52, 60, 90)
    assert several.prompt(49, "en", "translate", True) == (49, 51, 61)
    assert several.prompt(49, "en", "transcribe", True, (1, 2)) == (62, 1, 2, 49, 51, 60)
    assert one.prompt(49, None, "transcribe", False) == (49, 90)
    assert one.prompt(49, None, "transcribe", True) == (49,)
    assert (several.positions, several.first_time) == (1500, 91)


def test_reads_back() -> None:
    assert ModelSpec.from_json({**to_json(model()), "tied": True}) == model()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 3001}, r"frames \(3001\) must be even"),
        ({"translate_id": None}, r"transcribe_id and translate_id \(60, None\) belong to languages"),
        ({"languages": {}}, r"transcribe_id and translate_id \(60, 61\) belong to languages"),
    ],
)
def test_contradictions_of_speech(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleFormatError, match=message):
        SpeechSpec(**SEVERAL | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": None}, "speech belongs to an encoder beside a decoder"),
        ({"forced_id": 3}, "forced_id belongs to a source of tokens, and this one is speech"),
        ({"source_last_id": 3}, "source_last_id belongs to a source of tokens, and this one is speech"),
        ({"vocab_size": 91}, r"speech: no_timestamps_id \(91\) must be below vocab_size \(91\)"),
        ({"speech": SpeechSpec(**SEVERAL | {"languages": {"de": 100}})}, r"language 'de' \(100\) must be below"),
        ({"speech": SpeechSpec(**ONE, no_speech_id=101)}, r"no_speech_id \(101\) must be below vocab_size \(100\)"),
        ({"speech": SpeechSpec(**ONE, begin_suppress=(3, 100))}, r"begin_suppress \(100\) must be below"),
    ],
)
def test_contradictions_of_a_model(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleFormatError, match=message):
        model(**changes)
