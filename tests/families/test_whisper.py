"""Whisper against ``transformers``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models import cached, decode
from edgewise.models.heard import Heard
from edgewise.models.open import open_checkpoint

from .folders import change_json
from .whisper_folders import (
    CASES,
    CONTROLS,
    FRAMES,
    LANGUAGES,
    library_whisper,
    random_features,
    whisper_folder,
    whisper_tokenizer,
)

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
Folder = Callable[[str], Path]
SEVERAL = "several languages"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: whisper_folder(tmp_path_factory.mktemp("whisper") / "m", case))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_and_logits_are_those_of_the_library(case: str, folder: Folder, assert_close: Compare) -> None:
    model = open_checkpoint(folder(case)).model
    assert model.config.speech is not None
    features = random_features(model.config.speech.bands)
    target = torch.randint(0, model.config.vocab_size, (3, 12), generator=torch.Generator().manual_seed(4))
    expected = library_whisper(folder(case))(features, decoder_input_ids=target)
    hidden = model.listen(features)
    assert_close(hidden, expected.encoder_last_hidden_state)
    positions = torch.arange(target.shape[1])[None].expand_as(target)
    seen, heard = torch.ones_like(target, dtype=torch.bool), torch.ones(hidden.shape[:2], dtype=torch.bool)
    states, _ = model.decode(target, positions, seen, cross=model.cross_key_value(hidden), cross_mask=heard)
    assert_close(model.logits(states), expected.logits, atol=1e-4)


def test_control_tokens_are_those_of_the_files(folder: Folder) -> None:
    speech = open_checkpoint(folder(SEVERAL)).model.config.speech
    ids = {token: whisper_tokenizer().token_to_id(token) for token in CONTROLS}
    assert speech is not None
    assert speech.languages == {code: ids[f"<|{code}|>"] for code in LANGUAGES}
    assert (speech.transcribe_id, speech.translate_id) == (ids["<|transcribe|>"], ids["<|translate|>"])
    assert (speech.no_timestamps_id, speech.previous_id) == (ids["<|notimestamps|>"], ids["<|startofprev|>"])
    assert (speech.no_speech_id, speech.max_initial_timestamp) == (ids["<|nospeech|>"], 4)
    assert speech.begin_suppress == (220, ids["<|endoftext|>"])
    assert (speech.frames, speech.positions) == (FRAMES, FRAMES // 2)
    single = open_checkpoint(folder("one language, other switches")).model.config.speech
    assert single is not None
    assert (single.languages, single.transcribe_id, single.translate_id) == ({}, None, None)


def test_every_control_token_of_the_made_tokenizer_is_special(folder: Folder) -> None:
    made = open_checkpoint(folder(SEVERAL)).made_tokenizer
    assert made is not None
    added = Tokenizer.from_str(made).get_added_tokens_decoder()
    assert len(added) > len(CONTROLS)
    assert all(token.special for token in added.values())


@pytest.mark.parametrize("case", CASES)
def test_the_references_searches_are_those_of_the_library(case: str, folder: Folder) -> None:
    """The library's ``generate`` of encoder-decoders, without what Whisper's own adds: prompt in, tokens out."""
    model, library = open_checkpoint(folder(case)).model, library_whisper(folder(case))
    assert model.config.speech is not None
    ids = [model.config.start_id, *list(model.config.speech.languages.values())[:1]]
    ids += [model.config.speech.no_timestamps_id]
    for features in random_features(model.config.speech.bands):
        source = Heard(features, tuple(ids))
        found = decode.greedy(model, source, 16)
        assert cached.greedy(model, source, 16).tokens == found.tokens
        best = decode.beam(model, source, 3, 0.0, 16)[0]
        assert cached.beam(model, source, 3, 0.0, 16).tokens == best.tokens
        assert list(found.tokens) == _greedy(library, features, ids, 16)


@torch.no_grad()
def _greedy(library: Any, features: torch.Tensor, prompt: list[int], limit: int) -> list[int]:
    """The most probable token of the whole prefix, over and over."""
    tokens: list[int] = []
    while len(tokens) < limit and library.config.eos_token_id not in tokens:
        read = torch.tensor([[*prompt, *tokens]])
        tokens.append(int(library(features[None], decoder_input_ids=read).logits[0, -1].argmax()))
    return tokens


@pytest.fixture
def copied(folder: Folder, tmp_path: Path) -> Path:
    """A copy to change."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder(SEVERAL).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


REFUSED: dict[str, dict[str, Any]] = {
    "activation_function is 'mish', expected": {"activation_function": "mish"},
    r"new_switch \(1\) is not understood": {"new_switch": 1},
    r"bad_words_ids hold \(3,\), expected none": {"bad_words_ids": [[3]]},
    r"max_source_positions is 1.5, expected int": {"max_source_positions": 1.5},
    r"d_model \(32\) must be a multiple of n_heads \(5\)": {"decoder_attention_heads": 5},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_configuration_that_is_not_understood_is_refused(reason: str, copied: Path) -> None:
    change_json(copied / "config.json", **REFUSED[reason])
    with pytest.raises(ConfigError, match=reason):
        open_checkpoint(copied)


SETTINGS: dict[str, dict[str, Any]] = {
    "is_multilingual is 3, expected true or false": {"is_multilingual": 3},
    "max_initial_timestamp_index is 'a', expected a whole number": {"max_initial_timestamp_index": "a"},
    "begin_suppress_tokens is 'b', expected a list of token ids": {"begin_suppress_tokens": "b"},
    r"lang_to_id is \[1\], expected tokens and their ids": {"lang_to_id": [1]},
    r"<\|notimestamps\|> is 1 in generation_config.json, and \d+ in the tokenizer": {"no_timestamps_token_id": 1},
    r"<\|fr\|> is 5 in generation_config.json, and None in the tokenizer": {"lang_to_id": {"<|fr|>": 5}},
}


@pytest.mark.parametrize("reason", SETTINGS)
def test_settings_that_contradict_the_tokenizer_are_refused(reason: str, copied: Path) -> None:
    change_json(copied / "generation_config.json", **SETTINGS[reason])
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(copied)


@pytest.mark.parametrize("token", ["<|notimestamps|>", "<|translate|>"])
def test_a_tokenizer_without_a_control_token_is_refused(token: str, copied: Path) -> None:
    file = copied / "tokenizer.json"
    file.write_text(file.read_text().replace(token, "<|gone|>"))
    change_json(copied / "generation_config.json", no_timestamps_token_id=None, task_to_id=None)
    with pytest.raises(CheckpointError, match=rf"the tokenizer lacks the token {token.replace('|', '.')}"):
        open_checkpoint(copied)
