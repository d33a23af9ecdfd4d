"""Windows of speech: their features checked, and what a network says of one before it writes anything down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .bundle.model_spec import ModelSpec
from .bundle.speech import FRAME_SECONDS, SpeechSpec
from .engine import Engine, Floats, Memory
from .softmax import log_softmax


def windows_of(features: object, speech: SpeechSpec) -> Floats:
    """Log-mel features ``(B, bands, frames)`` of whole windows; those of one alone, ``(bands, frames)``, are a batch.

    Raises:
        InputError: no such array, of another type or size, or with numbers that are none.
    """
    if not isinstance(features, np.ndarray):
        raise InputError(f"features is {type(features).__name__}, expected a NumPy array of float32")
    if features.dtype != np.float32:
        raise InputError(f"features are {features.dtype}, expected float32: pass features.astype(numpy.float32)")
    if features.ndim not in (2, 3):
        raise InputError(
            f"features have shape {features.shape}, expected (windows, {speech.bands}, {speech.frames}), or that of "
            "one window without the first"
        )
    bands, frames = features.shape[-2:]
    if bands != speech.bands:
        raise InputError(f"features have {bands} bands, and this model hears {speech.bands}: compute them with as many")
    if frames != speech.frames:
        raise InputError(_other_length(frames, speech))
    windows: Floats = features.reshape(-1, bands, frames)
    for i, window in enumerate(windows):
        if not np.isfinite(window).all():
            raise InputError(f"the features of window {i} hold NaN or infinity: compute them again")
    return windows


def _other_length(frames: int, speech: SpeechSpec) -> str:
    window = f"a window of {speech.frames} ({speech.frames * FRAME_SECONDS:g} s)"
    found = f"features have {frames} frames ({frames * FRAME_SECONDS:g} s)"
    if frames > speech.frames:
        return f"{found}, more than {window}: cut the sound into windows, and pass them one after the other"
    return f"{found}, fewer than {window}: pad the sound with silence before its features are computed"


@dataclass(frozen=True, kw_only=True)
class FirstStep:
    """What a window's first step says: see :class:`~edgewise.runtime.results.Transcription`."""

    language: str | None = None
    language_probability: float | None = None
    no_speech_probability: float | None = None


def first_steps(engine: Engine, model: ModelSpec, memory: Memory, languages: Sequence[str | None]) -> list[FirstStep]:
    """One step of the decoder after its start token, for every window of ``memory``; a language of ``None`` is found.

    The most probable of the tokens of languages is the language (``detect_language`` of ``whisper/decoding.py`` in
    github.com/openai/whisper at c0d2f62), and there stands the token of no speech, too.
    """
    speech = model.speech
    assert speech is not None
    if None not in languages and speech.no_speech_id is None:
        return [FirstStep(language=language) for language in languages]
    start = np.full((len(languages), 1), model.start_id, np.int64)
    logits = engine.decoder_logits(memory, start, np.ones(start.shape, np.bool_))[:, 0]
    return [_first_step(row, speech, language) for row, language in zip(logits, languages, strict=True)]


def _first_step(logits: Floats, speech: SpeechSpec, language: str | None) -> FirstStep:
    """``logits (V,)``."""
    silence = None if speech.no_speech_id is None else float(np.exp(log_softmax(logits)[speech.no_speech_id]))
    if language is not None or not speech.languages:
        return FirstStep(language=language, no_speech_probability=silence)
    codes, tokens = list(speech.languages), list(speech.languages.values())
    probabilities = np.exp(log_softmax(logits[tokens]))
    best = int(probabilities.argmax())
    return FirstStep(
        language=codes[best], language_probability=float(probabilities[best]), no_speech_probability=silence
    )
