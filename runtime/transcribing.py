"""Speech: windows of features to text, in a language that is given or found, with times or without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias, Unpack, get_args, overload

import numpy as np

from ..errors import InputError
from .arguments import Batching, check_names, each
from .bundle.manifest import Manifest
from .bundle.speech import SpeechTask
from .engine import Engine
from .hearing import windows_of
from .interrupt import Watch
from .keywords import HearingArguments, StreamArguments, TranscribeArguments
from .options import DecodingOptions, shown
from .results import Transcription
from .tokenizer import Tokenizer
from .transcriber import Asked, Transcriber

Window: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]
"""Log-mel features ``(bands, frames)`` of one window."""
Windows: TypeAlias = np.ndarray[tuple[int, int, int], np.dtype[np.float32]]
"""Those of several, ``(windows, bands, frames)``."""

BATCH_SIZE = 8
"""Windows that go through the engine together where nobody says; fewer where memory holds no more."""
_STEERING = ("language", "task", "timestamps", "previous", "prefix", "cancellation", "batch_size", "progress")


class Transcribing:
    """The part of a :class:`~edgewise.runtime.session.Session` that writes speech down."""

    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def engine(self) -> Engine:
        """The engine, for those who measure and compare."""
        raise NotImplementedError

    def _require(self, method: str, *tasks: str) -> None:
        raise NotImplementedError

    def _check(self) -> None:
        raise NotImplementedError

    def _options(self, arguments: StreamArguments) -> DecodingOptions:
        raise NotImplementedError

    @overload
    def transcribe(self, features: Window, **arguments: Unpack[TranscribeArguments]) -> Transcription: ...

    @overload
    def transcribe(self, features: Windows, **arguments: Unpack[TranscribeArguments]) -> list[Transcription]: ...

    def transcribe(
        self, features: Window | Windows, **arguments: Unpack[TranscribeArguments]
    ) -> Transcription | list[Transcription]:
        """Write speech down, or its translation into English; keyword arguments: :class:`TranscribeArguments`.

        ``features (windows, bands, frames)`` float32: log-mel features of whole windows, of the sizes that the
        bundle's ``model.speech`` has, as the authors of the model compute them. Those of one window, ``(bands,
        frames)``, give one result. The decoder reads the start token, the language, the task, and that there are no
        times where there are none (Radford et al. 2022, figure 1); with times their rules hold
        (:class:`~edgewise.runtime.speech_rules.Timestamps`).

        Raises:
            InputError: features of another type, size or length, or not finite; a language that the bundle does not
                know; a language or a task for a model of one language.
            ContextLengthError: more new tokens are asked for than fit behind the prompt.
        """
        self._require("transcribe", "transcribe")
        check_names("transcribe", arguments, TranscribeArguments.__optional_keys__)
        writer = self._transcriber()
        windows = windows_of(features, writer.speech)
        batching = Batching.of(arguments, BATCH_SIZE)
        found = writer.write(windows, self._asked_of_speech(arguments, len(windows)), batching)
        return found[0] if np.ndim(features) == 2 else found

    def transcribe_stream(self, features: Window, **arguments: Unpack[HearingArguments]) -> Iterator[str]:
        """As :meth:`transcribe` of one window, giving out its text as it comes; see :meth:`Session.stream`."""
        self._require("transcribe_stream", "transcribe")
        check_names("transcribe_stream", arguments, HearingArguments.__optional_keys__)
        writer = self._transcriber()
        windows = windows_of(features, writer.speech)
        if len(windows) != 1:
            raise InputError(f"transcribe_stream takes one window, and there are {len(windows)}: call transcribe")
        asked = self._asked_of_speech({"beam_size": 1, **arguments}, 1)
        if max(asked.options.n_best, asked.options.rows if asked.options.beam_size == 1 else 1) > 1:
            raise InputError("transcribe_stream gives one result, and several are asked for: call transcribe")
        writer.batches(asked, 1)  # refuses what memory, or the context, does not hold
        return writer.stream(windows.copy(), asked)  # read later than it was checked

    def _transcriber(self) -> Transcriber:
        return Transcriber(self.engine, self.manifest, self.tokenizer, self._check)

    def _asked_of_speech(self, arguments: HearingArguments, windows: int) -> Asked:
        task, timestamps = arguments.get("task", "transcribe"), arguments.get("timestamps", False)
        if task not in get_args(SpeechTask):
            raise InputError(f"task ({shown(task)}) must be 'transcribe' or 'translate'")
        if not isinstance(timestamps, bool):
            raise InputError(f"timestamps ({shown(timestamps)}) must be True or False")
        given: Any = {name: value for name, value in arguments.items() if name not in _STEERING}
        options, prefixes = self._options(given), each(arguments.get("prefix", ""), windows)
        if not all(isinstance(prefix, str) for prefix in prefixes):
            raise InputError(f"prefix ({shown(arguments.get('prefix'))}) must be a string, or a list of strings")
        if timestamps and any(prefixes):
            raise InputError("prefix and timestamps contradict each other: a result with times begins with one")
        return Asked(
            options=options,
            languages=_languages(self.manifest, arguments.get("language"), task, windows),
            task=task,
            timestamps=timestamps,
            previous=_previous(self.manifest, self.tokenizer, arguments.get("previous", ""), windows),
            prefixes=tuple(prefixes),
            limited=arguments.get("max_new_tokens") is not None,
            watch=Watch(arguments.get("cancellation"), options.deadline),
        )


def _languages(manifest: Manifest, language: object, task: SpeechTask, windows: int) -> tuple[str | None, ...]:
    """A language for each window, ``None`` where it is to be found."""
    assert manifest.model.speech is not None
    known = manifest.model.speech.languages
    if not known and (language is not None or task != "transcribe"):
        what = f"language ({shown(language)})" if language is not None else f"task ({task!r})"
        raise InputError(
            f"{what}: bundle {manifest.name!r} knows one language, and writes what is said in it; leave it out"
        )
    languages = _each_window("language", language, windows)
    for code in languages:
        if code is not None and code not in known:
            raise InputError(
                f"language ({shown(code)}) must be None, or one of bundle {manifest.name!r}: {', '.join(known)}"
            )
    return languages


def _previous(manifest: Manifest, tokenizer: Tokenizer, texts: object, windows: int) -> tuple[tuple[int, ...], ...]:
    """Of each text that came before, as many of its last tokens as half of the context has place for.

    Source: ``_get_initial_tokens`` of ``whisper/decoding.py`` in github.com/openai/whisper at c0d2f62.
    """
    assert manifest.model.speech is not None
    given = [text.strip() for text in _each_window("previous", texts, windows) if text is not None]
    if len(given) < windows:
        raise InputError(f"previous ({shown(texts)}) must be a string, or a list of strings, one for each window")
    if any(given) and manifest.model.speech.previous_id is None:
        raise InputError(
            f"previous ({shown(texts)}): the tokenizer of bundle {manifest.name!r} has no <|startofprev|>, which would "
            "stand before it: leave it out"
        )
    most = max(1, manifest.max_context // 2 - 1)
    named = [(text, f"the text before window {i}") for i, text in enumerate(given)]
    return tuple(tuple(tokenizer.encode(f" {text}", name)[-most:]) if text else () for text, name in named)


def _each_window(name: str, given: Any, windows: int) -> tuple[str | None, ...]:
    """One for all windows, or one for each."""
    if given is None or isinstance(given, str):
        return (given,) * windows
    listed = isinstance(given, list | tuple) and all(one is None or isinstance(one, str) for one in given)
    if not listed or len(given) != windows:
        raise InputError(f"{name} ({shown(given)}) must be a string, or a list of one for each of {windows} windows")
    return tuple(given)
