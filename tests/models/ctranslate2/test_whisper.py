"""Whisper folders of CTranslate2: a tiny one against the library, and tiny.en on speech."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
import torch
from ctranslate2.specs import WhisperSpec
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgewise.errors import CheckpointError, ConfigError
from edgewise.export.portable import portable_graphs
from edgewise.models import cached
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.heard import Heard
from edgewise.models.open import open_checkpoint
from edgewise.runtime.load import load
from edgewise.runtime.search import candidates_needed, finish, search

from ...bundles import export_few
from ...families.whisper_folders import BANDS, whisper_tokenizer
from ...open_model import open_files, write_variant
from .folders import WIDTH, Filler

STATES, HEADS, POSITIONS = 20, 4, 40
JFK = "And so my fellow Americans ask not what your country can do for you, ask what you can do for your country."


def tiny_folder(folder: Path, quantization: str | None = None) -> Path:
    """Random weights in the library's own specification; the encoder hears ``2 * STATES`` frames."""
    fill, spec = Filler(3), WhisperSpec(2, HEADS, 1, HEADS)
    ids = whisper_tokenizer().get_vocab(with_added_tokens=True)
    words = sorted(ids, key=lambda token: ids[token])
    for conv, bands in ((spec.encoder.conv1, BANDS), (spec.encoder.conv2, WIDTH)):
        conv.weight, conv.bias = fill.values(WIDTH, bands, 3), fill.values(WIDTH)
    spec.decoder.embeddings.weight = fill.values(len(words), WIDTH)
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.decoder.scale_embeddings = False
    for side, length in ((spec.encoder, STATES), (spec.decoder, POSITIONS)):
        side.position_encodings.encodings = fill.values(length, WIDTH)
        fill.norm(side.layer_norm, rms=False)
        for layer in side.layer:
            fill.layer(layer, rms=False, bias=True, glu=False, kv=HEADS)
    spec.register_vocabulary(words)
    spec.config.suppress_ids, spec.config.suppress_ids_begin, spec.config.lang_ids = [1, 2], [220], []
    folder.mkdir(parents=True)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    (folder / "tokenizer.json").write_text(whisper_tokenizer().to_str())
    return folder


def library(folder: Path) -> Any:
    return ctranslate2.models.Whisper(str(folder), compute_type="float32", intra_threads=1)


def by_library(folder: Path, features: NDArray[np.float32], prompt: tuple[int, ...], limit: int) -> list[int]:
    """New tokens of a greedy search that suppresses nothing, without the end token."""
    view = ctranslate2.StorageView.from_array(np.ascontiguousarray(features[None]))
    options: dict[str, Any] = {"beam_size": 1, "suppress_tokens": [], "suppress_blank": False, "max_length": limit}
    found: list[int] = library(folder).generate(view, [list(prompt)], **options)[0].sequences_ids[0]
    return found


@torch.inference_mode()
def by_reference(
    checkpoint: Checkpoint, features: NDArray[np.float32], limit: int
) -> tuple[tuple[int, ...], list[int]]:
    """The prompt of a result without times, and the same tokens."""
    config = checkpoint.model.config
    assert config.speech is not None
    prompt = (config.start_id, config.speech.no_timestamps_id)
    tokens = cached.greedy(checkpoint.model, Heard(torch.from_numpy(features), prompt), limit - len(prompt)).tokens
    return prompt, [token for token in tokens if token != config.end_id]


@pytest.mark.parametrize("quantization", [None, "int8", "float16"])
def test_states_are_those_of_the_library(
    quantization: str | None, tmp_path: Path, assert_close: Callable[..., None]
) -> None:
    folder = tiny_folder(tmp_path / "m", quantization)
    model = open_checkpoint(folder).model
    features = np.random.default_rng(1).normal(size=(2, BANDS, 2 * STATES)).astype(np.float32)
    expected = np.array(library(folder).encode(ctranslate2.StorageView.from_array(features), to_cpu=True))
    with torch.inference_mode():
        hidden = model.listen(torch.from_numpy(features))
    if quantization == "int8":  # the library rounds activations, too
        assert np.sqrt(np.square(hidden.numpy() - expected).mean()) < 0.05 * expected.std()
    else:
        assert_close(hidden, torch.from_numpy(expected), atol=1e-4)


def test_what_the_files_say(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_folder(tmp_path / "m"))
    config = checkpoint.model.config
    assert config.speech is not None
    assert (config.speech.bands, config.speech.frames, config.max_positions) == (BANDS, 2 * STATES, POSITIONS)
    assert (config.speech.languages, config.speech.begin_suppress) == ({}, (220,))
    assert config.speech.max_initial_timestamp == 50
    assert config.tied
    assert checkpoint.beam_size == 5
    assert checkpoint.decoding["suppress"] == [[1], [2]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"new": 1}, ConfigError, r"config.json: \['new'\] not understood"),
        ({"suppress_ids_begin": 3}, CheckpointError, "begin_suppress_tokens is 3, expected a list of token ids"),
        ({"suppress_ids_begin": [999]}, ConfigError, r"begin_suppress 0 \(999\) must be a token id below vocab_size"),
    ],
)
def test_settings_that_are_refused(
    change: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = tiny_folder(tmp_path / "m")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(error, match=message):
        open_checkpoint(folder)


def test_files_that_are_refused(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m")
    contents = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(contents.replace("<|startoftranscript|>", "<|gone|>"))
    with pytest.raises(CheckpointError, match=r"lacks <\|startoftranscript\|> or <\|endoftext\|>"):
        open_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected an object, got list"):
        open_checkpoint(folder)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(contents)
    words = json.loads((folder / "vocabulary.json").read_text())
    (folder / "vocabulary.json").write_text(json.dumps([*words, "<|more|>"]))
    with pytest.raises(CheckpointError, match=r"the vocabulary has \d+ tokens, the embedding \d+ rows"):
        open_checkpoint(folder)


def test_a_bundle_writes_what_the_library_writes(tmp_path: Path) -> None:
    """With what the folder says is suppressed, with times and without."""
    folder = tiny_folder(tmp_path / "tiny")
    export_few(folder, tmp_path / "bundle", ("cpu",), ("fp32",))
    features = 3 * np.random.default_rng(2).normal(size=(4, BANDS, 2 * STATES)).astype(np.float32)
    with load(tmp_path / "bundle", threads=1) as session:
        assert session.verify().ok
        model = session.manifest.model
        assert model.speech is not None
        for timestamps in (False, True):
            prompt = model.speech.prompt(model.start_id, None, "transcribe", timestamps)
            asked: dict[str, Any] = {"beam_size": 1, "max_new_tokens": 16, "timestamps": timestamps}
            for window, found in zip(features, session.transcribe(features, **asked), strict=True):
                view = ctranslate2.StorageView.from_array(np.ascontiguousarray(window[None]))
                options: dict[str, Any] = {"beam_size": 1, "max_length": 32}  # half of which are new ones
                expected = library(folder).generate(view, [list(prompt)], **options)[0]
                assert [token for token in found.tokens if token != model.end_id] == expected.sequences_ids[0]


def log_mel(assets: Path, file: Path) -> NDArray[np.float32]:
    """Features ``(80, 3000)`` of 16-bit samples at 16 kHz: ``log_mel_spectrogram`` of ``whisper/audio.py``."""
    with wave.open(str(file)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16) / 32768
    padded = np.pad(np.pad(samples, (0, 480_000 - len(samples))), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1]))[:-1] ** 2
    mel = np.load(assets / "audio" / "whisper_mel_filters.npz")["mel_80"] @ power.T
    log = np.log10(np.maximum(mel, 1e-10))
    return ((np.maximum(log, log.max() - 8) + 4) / 4).astype(np.float32)  # type: ignore[no-any-return]


@pytest.mark.real
@pytest.mark.slow
def test_tiny_en_writes_what_is_said(models: Callable[[str], Path], assets: Path) -> None:
    folder = models("whisper-tiny.en")
    checkpoint = open_checkpoint(folder)
    features = log_mel(assets, assets / "audio" / "jfk_16k_mono.wav")
    prompt, tokens = by_reference(checkpoint, features, 62)
    assert tokens == by_library(folder, features, prompt, 62)
    assert checkpoint.made_tokenizer is not None
    assert Tokenizer.from_str(checkpoint.made_tokenizer).decode(tokens).strip() == JFK


@pytest.fixture(scope="module")
def graphs() -> Callable[[Path], Any]:
    """``graphs(folder)``: the portable form of its network."""
    return cache(lambda folder: portable_graphs(open_checkpoint(folder).model))


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["float32", "int8-rows"])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_tiny_en_on_engines(
    target: str,
    kernel: Any,
    models: Callable[[str], Path],
    assets: Path,
    graphs: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    """Of this window the integers give the same tokens, too."""
    folder = models("whisper-tiny.en")
    checkpoint, features = open_checkpoint(folder), log_mel(assets, assets / "audio" / "jfk_16k_mono.wav")
    prompt, tokens = by_reference(checkpoint, features, 62)
    files = write_variant(graphs(folder), target, kernel, tmp_path / "v")
    engine, end = open_files(checkpoint.model, target, kernel, files), checkpoint.model.config.end_id
    run = engine.start(engine.encode_features(features[None]), 1, 1, 62, candidates_needed(1))
    found = finish(search(run, np.array([prompt]), [60], end))[0][0]
    assert found.tokens == (*tokens, end)
