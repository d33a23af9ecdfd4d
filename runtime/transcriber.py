"""Windows of speech through one engine: encoded once, asked for their language, then searched in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ContextLengthError
from .arguments import Batching
from .batching import decoder_bytes, encoder_bytes, in_order, memory_alone, memory_budget, plan_batches
from .bundle.manifest import Manifest
from .bundle.model_spec import ModelSpec
from .bundle.speech import SpeechSpec, SpeechTask
from .decoding import Request, capacity, decode_batch, not_begun
from .engine import Engine, Floats, Memory
from .generations import Found, generations
from .hearing import FirstStep, first_steps
from .inputs import Prepared, prepare_prefix
from .interrupt import Watch
from .options import DecodingOptions
from .results import Segment, Transcription
from .rules import Rule
from .segments import segments_of, up_to_stop
from .speech_rules import BeginSuppress, Timestamps
from .streaming import stream_pieces
from .tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How windows are to be written down; the tuples have one of each.

    ``languages``: ``None`` where it is to be found. ``previous``: tokens of the texts that came before. ``prefixes``:
    what results begin with. ``limited``: whether ``max_new_tokens`` is the caller's, and no recommendation.
    """

    options: DecodingOptions
    languages: tuple[str | None, ...]
    task: SpeechTask
    timestamps: bool
    previous: tuple[tuple[int, ...], ...]
    prefixes: tuple[str, ...]
    limited: bool
    watch: Watch


class Transcriber:
    """What writes windows down; ``check`` is called before every step, and raises to stop."""

    def __init__(self, engine: Engine, manifest: Manifest, tokenizer: Tokenizer, check: Callable[[], None]) -> None:
        assert manifest.model.speech is not None  # the manifest's task says so
        self.engine, self.manifest, self.tokenizer, self.check = engine, manifest, tokenizer, check
        self.model: ModelSpec = manifest.model
        self.speech: SpeechSpec = manifest.model.speech

    def batches(self, asked: Asked, batch_size: int) -> list[list[int]]:
        """Which windows go together: those whose prompts are equally long, within the memory that is free.

        Raises:
            InputError: one alone would take more.
            ContextLengthError: more new tokens are asked for than fit.
        """
        some = next(iter(self.speech.languages), None)  # each has one token
        prompts = [len(self._prompt(asked, i, some)) for i in range(len(asked.languages))]
        limits = {length: _limit(self.manifest, length, asked) for length in prompts}
        for i, length in enumerate(prompts):
            self._prefix(asked, i, limits[length])  # refused before anything is computed
        heard = encoder_bytes(self.model, self.speech.positions)

        def bytes_each(prompt: int) -> int:
            positions = capacity(prompt, limits[prompt])
            return heard + decoder_bytes(self.model, prompt, positions, asked.options.rows)

        names = [f"window {i}" for i in range(len(prompts))]
        return plan_batches(
            prompts, bytes_each, batch_size, memory_budget(), equal=True, names=names, alone=memory_alone()
        )

    def write(self, windows: Floats, asked: Asked, batching: Batching) -> list[Transcription]:
        """A result for each of ``windows (B, bands, frames)``."""
        batches = self.batches(asked, batching.batch_size)

        def results() -> Iterator[list[Transcription]]:
            done = 0
            for batch in batches:
                yield self._together(windows[batch], asked, batch)
                done += len(batch)
                if batching.progress is not None:
                    batching.progress(done, len(windows))

        return in_order(batches, results())

    def stream(self, windows: Floats, asked: Asked) -> Generator[str]:
        """Text of the one window ``(1, bands, frames)`` as it comes, without white space before it."""
        self.check()
        if asked.watch.reason():
            return
        memory, (first,) = self._heard(windows, asked.languages)
        request, options = self._request(asked, 0, first), asked.options
        begun = False
        for piece in stream_pieces(
            self.engine, self.model, request, options, self.tokenizer, (), self.check, asked.watch, memory
        ):
            text = piece if begun else piece.lstrip()
            begun = begun or text != ""
            if text:
                yield text

    def _together(self, windows: Floats, asked: Asked, batch: list[int]) -> list[Transcription]:
        """``windows`` are those of ``batch``, their places among all that are asked for."""
        self.check()
        begin, languages = time.perf_counter(), [asked.languages[i] for i in batch]
        if reason := asked.watch.reason():
            nothing = [Request(source=Prepared(ids=()), limit=1) for _ in batch]
            firsts = [FirstStep(language=language) for language in languages]
            return self._results(asked, firsts, nothing, [not_begun(reason, len(batch)) for _ in batch])
        memory, firsts = self._heard(windows, languages)
        requests = [self._request(asked, i, first) for i, first in zip(batch, firsts, strict=True)]
        found = decode_batch(self.engine, self.model, requests, asked.options, self.check, asked.watch, memory, begin)
        return self._results(asked, firsts, requests, found)

    def _heard(self, windows: Floats, languages: Sequence[str | None]) -> tuple[Memory, list[FirstStep]]:
        """What the engine keeps of windows, and what their first steps say."""
        memory = self.engine.encode_features(np.ascontiguousarray(windows))
        return memory, first_steps(self.engine, self.model, memory, languages)

    def _prompt(self, asked: Asked, place: int, language: str | None) -> tuple[int, ...]:
        return self.speech.prompt(self.model.start_id, language, asked.task, asked.timestamps, asked.previous[place])

    def _request(self, asked: Asked, place: int, first: FirstStep) -> Request:
        options, name = asked.options, f"window {place}"
        prompt = self._prompt(asked, place, first.language)
        limit = _limit(self.manifest, len(prompt), asked)
        return Request(
            source=Prepared(ids=(), prompt=prompt),
            limit=limit,
            prefix=self._prefix(asked, place, limit),
            text_of=self.tokenizer.text_after(()) if options.stop else None,
            name=name,
            silent=(self.model.end_id,),
            rules=tuple(self._rules(asked.timestamps)),
        )

    def _prefix(self, asked: Asked, place: int, limit: int) -> tuple[int, ...]:
        text = asked.prefixes[place].strip()
        return prepare_prefix(self.tokenizer, f" {text}" if text else "", limit, asked.options, f"window {place}")

    def _rules(self, timestamps: bool) -> Iterator[Rule]:
        speech = self.speech
        if speech.begin_suppress:
            yield BeginSuppress(speech.begin_suppress)
        if timestamps:
            end = self.model.end_id
            yield Timestamps(speech.first_time, end, speech.no_timestamps_id, speech.max_initial_timestamp)

    def _results(
        self, asked: Asked, firsts: Sequence[FirstStep], requests: Sequence[Request], found: Found
    ) -> list[Transcription]:
        made = generations(self.tokenizer, requests, [()] * len(requests), found, asked.options)
        return [
            Transcription(
                hypotheses=tuple(replace(h, text=h.text.strip()) for h in generation.hypotheses),
                language=first.language,
                language_probability=first.language_probability,
                no_speech_probability=first.no_speech_probability,
                segments=self._segments(generation.tokens, asked.options.stop) if asked.timestamps else (),
                timings=generation.timings,
            )
            for first, generation in zip(firsts, made, strict=True)
        ]

    def _segments(self, tokens: Sequence[int], stops: Sequence[str]) -> tuple[Segment, ...]:
        whole = segments_of(self.tokenizer, tokens, self.speech.first_time, (self.model.end_id,))
        return up_to_stop(whole, stops)


def _limit(manifest: Manifest, prompt: int, how: Asked) -> int:
    """Most new tokens behind a prompt, by default half of the context (``sample_len`` of openai's ``DecodingTask``)."""
    room = manifest.max_context + 1 - prompt
    options, option = how.options, "max_new_tokens" if how.limited else "min_new_tokens"
    asked: int = getattr(options, option)
    if asked > room:
        raise ContextLengthError(
            f"{option} ({asked}) does not fit: a prompt of {prompt} tokens leaves room for {room} in the context of "
            f"{manifest.max_context}: lower it"
        )
    return min(room, options.max_new_tokens or max(manifest.max_context // 2, asked))
