"""Reference cases of a network that hears: features made of a few integers, and prompts of every kind.

An encoder reads a whole window whatever is in it, and its states are large: so the cases are few. They leave no
position of encoder and decoder unread. Every logit is in what a step keeps; of an embedding that the output projection
does not share, only the rows are read that some prompt or result has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..models.heard import Heard
from ..runtime.bundle.cases import Case
from ..runtime.bundle.heard import HeardSpec
from ..runtime.bundle.manifest import Task
from ..runtime.bundle.speech import SpeechSpec, SpeechTask
from .cases import BEAM_SIZE, Progress, TorchRecorder
from .effort import FEWEST_STEPS, Effort
from .sentences import SENTENCES

STEPS = 24
LAST_STEPS = 4
"""Of the case whose prompt fills the context but for them."""


@dataclass(frozen=True, kw_only=True)
class _Window:
    """What is heard, see :class:`HeardSpec`, of which ``sounding`` is a share; and how it is asked about.

    ``previous``: tokens of a text before it that the prompt begins with at most, as a share of the context.
    """

    name: str
    apart: int
    sounding: float = 1.0
    timestamps: bool = False
    task: SpeechTask = "transcribe"
    previous: float = 0.0


WINDOWS = (
    _Window(name="quiet", apart=4, sounding=0.0),
    _Window(name="slow", apart=6, timestamps=True),
    _Window(name="half", apart=4, sounding=0.5, task="translate"),
    _Window(name="quick", apart=3, timestamps=True, task="translate"),
    _Window(name="short", apart=2, sounding=0.1),
    _Window(name="noise", apart=0),
    _Window(name="previous", apart=5, previous=0.5),
    _Window(name="longest", apart=4, previous=1.0, timestamps=True),
)


class SpeechRecorder(TorchRecorder):
    """The network is a reference that hears."""

    def record(self, task: Task, progress: Progress | None) -> tuple[Case, ...]:
        """See :class:`~edgewise.export.cases.Recorder`."""
        assert self.spec.speech is not None
        return tuple(self._heard(self.spec.speech, progress))

    def _heard(self, speech: SpeechSpec, progress: Progress | None) -> Iterator[Case]:
        """Greedy and beam search from every window; the prompts take turns in the languages."""
        asked = [w for w in WINDOWS if speech.previous_id is not None or not w.previous]
        prompts = [self._prompt_of(speech, window, i / len(asked)) for i, window in enumerate(asked)]
        self._settle([len(prompt) for prompt in prompts])
        for done, (window, prompt) in enumerate(zip(asked, prompts, strict=True), start=1):
            yield self._case(speech, window, prompt)
            if progress:
                progress(done, len(asked))

    def _settle(self, lengths: list[int]) -> None:
        """New tokens of a case, and whether they are searched with a cache, as without one it would take too long."""
        naive = Effort(weights=self.weights, beams=BEAM_SIZE)
        self.cached = sum(naive.cost(length, STEPS) for length in lengths) > naive.most
        steps = Effort(weights=self.weights, beams=BEAM_SIZE, cached=self.cached).steps(lengths)
        self.steps = max(FEWEST_STEPS, min(STEPS, steps))

    def _prompt_of(self, speech: SpeechSpec, window: _Window, place: float) -> tuple[int, ...]:
        """``place``, from 0 to 1, chooses among the languages."""
        languages = list(speech.languages)
        language = languages[int(place * len(languages))] if languages else None
        steered = (self.spec.start_id, language, window.task, window.timestamps)
        room = int(window.previous * self.max_context) - len(speech.prompt(*steered)) - LAST_STEPS
        if room <= 0:
            return speech.prompt(*steered)
        text = " ".join(SENTENCES * (1 + room // len(SENTENCES)))  # no sentence is without tokens
        return speech.prompt(*steered, self._text_ids(f" {text}")[:room])

    def _case(self, speech: SpeechSpec, window: _Window, prompt: tuple[int, ...]) -> Case:
        heard = HeardSpec.of(
            seed=WINDOWS.index(window),
            apart=window.apart,
            sounding=int(window.sounding * speech.frames),
            bands=speech.bands,
            frames=speech.frames,
        )
        limit = min(self.steps, self.max_context + 1 - len(prompt))
        features = torch.from_numpy(heard.features(speech.bands, speech.frames).copy())
        greedy, beam = self.search(Heard(features, prompt), limit)
        return Case(
            name=window.name,
            text=None,
            input_ids=prompt,
            heard=heard,
            max_new_tokens=limit,
            greedy=self._greedy(greedy, ()),
            beam=self._beam(beam, ()),
        )
