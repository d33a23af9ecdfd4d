"""Recording reference cases: what PyTorch makes of chosen inputs, while it is at hand.

The numbers come from the naive search of :mod:`edgewise.models.decode` on the float32 network; of a network too large
for that, from one pass over what a cached search found (:mod:`edgewise.models.cached`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..models.beam_rules import Decoded
from ..runtime.bundle.cases import (
    TOP_CANDIDATES,
    Beam,
    Case,
    Classified,
    Embedded,
    Greedy,
    Masked,
    ReferenceCases,
    Step,
    TokenScores,
    fold,
    log_sum_exp,
)
from ..runtime.bundle.manifest import Task
from ..runtime.bundle.model_spec import ModelSpec
from .effort import FEWEST_STEPS, MOST_STEPS, Effort, ordinary
from .languages import directed, directions
from .probes import EXTRA_TOKENS, LONGEST, ORDINARY, SWEEP_NEW_TOKENS, SWEEP_TOKENS, Codec, Probe, probes

if TYPE_CHECKING:  # what a case is made of, whatever computed it, is known without torch
    from torch import Tensor

    from ..models.checkpoint import Checkpoint
    from ..models.config import ModelConfig
    from ..models.heard import Source

BEAM_SIZE = 5
LENGTH_PENALTY = 0.6
LOGIT_IDS = 16
MASK = "<mask>"
QUESTION = "Who is riding a bicycle?"
PAIRS = 8
TOKEN_LOGITS = 1024  # at most so many of a text are kept

Progress = Callable[[int, int], None]
"""Told how many of how many cases are done."""


def record_cases(
    checkpoint: Checkpoint,
    task: Task,
    codec: Codec,
    max_context: int,
    progress: Progress | None = None,
    source_codec: Codec | None = None,
) -> ReferenceCases:
    """Ask the reference of ``checkpoint`` every probe, or of a large decoder fewer and for less: see :mod:`.effort`.

    ``max_context``: most tokens of a text, specials included. ``source_codec``: that of sources, where it is another.
    Every step keeps the logits of the same ``LOGIT_IDS`` ids, the end token first, spread over the vocabulary from its
    frequent to its rare tokens.
    """
    import torch

    recorder = _recorder_of(task)(checkpoint, codec, max_context, source_codec)
    with one_thread():
        cases = recorder.record(task, progress)
    return ReferenceCases(
        kind=task,
        checkpoint_sha256=checkpoint.sha256,
        torch=str(torch.__version__),
        seed=None,
        logit_ids=recorder.logit_ids,
        cases=cases,
    )


def _recorder_of(task: Task) -> type[TorchRecorder]:
    if task != "transcribe":
        return TorchRecorder
    from .speech_cases import SpeechRecorder

    return SpeechRecorder


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, however many processors there are; for thousands of small calls it is also the fastest."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def segments_of(config: ModelConfig, ids: Tensor, second_from: int | None) -> Tensor | None:
    """Segments ``(B, S)`` of ``ids (B, S)`` whose pair's second text begins at ``second_from``."""
    if not config.second_segment:
        return None
    segments = ids.new_zeros(ids.shape)
    if second_from is not None:
        segments[:, second_from:] = config.second_segment
    return segments


def spread_ids(vocab_size: int, end_id: int) -> tuple[int, ...]:
    """The end token, then ids at equal distances up to the last, which is the rarest."""
    count = min(LOGIT_IDS, vocab_size) - 1
    return tuple(dict.fromkeys([end_id, *((i + 1) * (vocab_size - 1) // count for i in range(count))]))


Logits = NDArray[np.float32]


class Recorder:
    """One network of ``weights`` parameters, and what a case of each task is made of; the network's own answers are
    left to a class that has it.

    ``source_codec``: that of sources, where it is another.
    """

    def __init__(
        self, spec: ModelSpec, weights: int, codec: Codec, max_context: int, source_codec: Codec | None = None
    ) -> None:
        self.spec, self.weights = spec, weights
        self.codec, self.source_codec, self.max_context = codec, source_codec or codec, max_context
        self.directions = directions(spec)
        self.steps, self.to_the_end, self.cached = MOST_STEPS, True, False
        self.logit_ids = spread_ids(spec.vocab_size, spec.end_id) if spec.head == "vocabulary" else ()

    def searched(self, spec: ModelSpec, input_ids: tuple[int, ...], limit: int) -> tuple[Decoded, Decoded]:
        """A greedy search, with its logits, and a beam search from a source or a prompt.

        ``spec``: the network's own for the languages of this case.
        """
        raise NotImplementedError

    def vocabulary_logits(self, input_ids: tuple[int, ...], place: int) -> Logits:
        """Logits ``(V,)`` of an encoder at one place."""
        raise NotImplementedError

    def class_logits(self, input_ids: tuple[int, ...], second_from: int | None) -> Logits:
        """Logits ``(classes,)`` of a text, or of a pair whose second text begins there."""
        raise NotImplementedError

    def token_logits(self, input_ids: tuple[int, ...], second_from: int | None) -> Logits:
        """Logits ``(S, classes)`` of a text's tokens, or of a pair's."""
        raise NotImplementedError

    def vector(self, input_ids: tuple[int, ...]) -> Logits:
        """The vector ``(D,)`` of a text."""
        raise NotImplementedError

    def record(self, task: Task, progress: Progress | None) -> tuple[Case, ...]:
        """The cases of ``task``."""
        record = {
            "translate": self.decoded,
            "generate": self.decoded,
            "fill_mask": self.masked,
            "classify": self.classified,
            "regress": self.classified,
            "tag": self.tagged,
            "answer": self.answered,
            "embed": self.embedded,
        }[task]
        asked = self.asked()
        cases: list[Case] = []
        for done, probe in enumerate(asked, start=1):
            cases += record(probe)
            if progress:
                progress(done, len(asked))
        return tuple(cases)

    def asked(self) -> list[Probe]:
        """What this network is asked; the number of steps is settled on the way."""
        if self.spec.decoder is None:
            return list(probes(self.source_codec, self.room(1)))
        naive, room = Effort(weights=self.weights, beams=BEAM_SIZE), self.room(BEAM_SIZE)
        if naive.room(room) == room:
            asked = self._fitting(room, naive)
            if self.to_the_end:
                return asked
        return self._fitting(self.room(1), replace(naive, cached=True))

    def room(self, rows: int) -> int:
        """Tokens of the longest text, of which so many ``rows`` are read whole at once."""
        room = self.max_context - 2
        if self.spec.head == "span":
            room -= len(self._text_ids(QUESTION)) + len(self.spec.pair_between)
        return room

    def _fitting(self, room: int, effort: Effort) -> list[Probe]:
        fitting = effort.room(room)
        asked = effort.kept(list(probes(self.source_codec, fitting)), min(fitting, SWEEP_TOKENS))
        self.steps = effort.steps([len(self._text_ids(probe.text)) for probe in ordinary(asked)])
        self.to_the_end = fitting == room and self.steps == MOST_STEPS
        self.cached = effort.cached
        return asked

    def decoded(self, probe: Probe) -> Iterator[Case]:
        """Greedy and beam search from a source, or with a decoder alone from a prompt."""
        ids = self._text_ids(probe.text)
        source, target = next(self.directions)
        spec = self.spec.directed(source, target)
        input_ids = spec.source(ids) if spec.encoder else spec.prompt(ids)
        limit = self._limit(probe, len(input_ids))
        greedy, beam = self.searched(spec, input_ids, limit)
        prompt = () if spec.encoder else input_ids
        yield Case(
            name=probe.name,
            text=probe.text,
            input_ids=input_ids,
            source_language=source,
            target_language=target,
            max_new_tokens=limit,
            greedy=self._greedy(greedy, prompt),
            beam=self._beam(beam, prompt),
        )

    def masked(self, probe: Probe) -> Iterator[Case]:
        """The word in the middle of a text behind a mask; one mask for a text of no words or one."""
        assert self.spec.mask_id is not None
        words = (probe.text or "").split(" ")
        middle = len(words) // 2
        before, after = self._around(" ".join(words[:middle]), " ".join(words[middle + 1 :]))
        input_ids = self.spec.source((*before, self.spec.mask_id, *after))
        place = len(before) + int(self.spec.starts_text)
        logits = self.vocabulary_logits(input_ids, place)
        yield Case(
            name=probe.name,
            text=" ".join([*words[:middle], MASK, *words[middle + 1 :]]),
            input_ids=input_ids,
            masked=(Masked(position=place, scores=self._step(logits)),),
        )

    def _around(self, before: str, after: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of what stands before a mask and behind it, with a space on either side."""
        if not self.spec.mask_splits_text:
            return self._text_ids(before), self._text_ids(after)
        left, right = self.codec.strips(self.spec.mask_id)
        before, after = before if left or not before else f"{before} ", after if right or not after else f" {after}"
        return tuple(self.codec.encode_part(before)), tuple(self.codec.encode_part(after))

    def classified(self, probe: Probe) -> Iterator[Case]:
        """The class of a text, and of some with another one as a pair."""
        yield self._classified(probe.name, probe.text, None)
        if self.spec.pair_between and probe.text in ORDINARY[:PAIRS]:
            second = ORDINARY[ORDINARY.index(probe.text) + 1]
            if len(self.spec.pair(self._text_ids(probe.text), self._text_ids(second))) <= self.max_context:
                yield self._classified(f"pair-{probe.name}", probe.text, second)

    def _classified(self, name: str, text: str | None, pair: str | None) -> Case:
        input_ids, second_from = self._read(text, pair)
        logits = self.class_logits(input_ids, second_from)
        label = self.spec.class_names[int(logits.argmax())]
        return Case(
            name=name,
            text=text,
            pair=pair,
            second_from=second_from,
            input_ids=input_ids,
            classified=Classified(logits=tuple(logits.tolist()), label=label),
        )

    def tagged(self, probe: Probe) -> Iterator[Case]:
        """The classes of a text's tokens."""
        yield self._tokens(probe.name, probe.text, None)

    def answered(self, probe: Probe) -> Iterator[Case]:
        """Where the answer to ``QUESTION`` begins and ends in a text."""
        if probe.text:
            yield self._tokens(probe.name, QUESTION, probe.text)

    def _tokens(self, name: str, text: str | None, pair: str | None) -> Case:
        """Of a long text tokens at equal distances."""
        input_ids, second_from = self._read(text, pair)
        logits = self.token_logits(input_ids, second_from)
        kept = min(len(input_ids), max(2, TOKEN_LOGITS // logits.shape[1]))
        places = sorted({i * (len(input_ids) - 1) // max(1, kept - 1) for i in range(kept)})
        return Case(
            name=name,
            text=text,
            pair=pair,
            second_from=second_from,
            input_ids=input_ids,
            token_scores=tuple(TokenScores(position=p, logits=tuple(logits[p].tolist())) for p in places),
        )

    def _read(self, text: str | None, pair: str | None) -> tuple[tuple[int, ...], int | None]:
        """Tokens of a text or a pair, and where the second text begins."""
        first = self._text_ids(text)
        if pair is None:
            return self.spec.source(first), None
        return self.spec.pair(first, self._text_ids(pair)), self.spec.second_from(first)

    def embedded(self, probe: Probe) -> Iterator[Case]:
        """The vector of a text."""
        input_ids = self.spec.source(self._text_ids(probe.text))
        vector = tuple(self.vector(input_ids).tolist())
        yield Case(name=probe.name, text=probe.text, input_ids=input_ids, embedded=Embedded(vector=vector))

    def _text_ids(self, text: str | None) -> tuple[int, ...]:
        return tuple(self.source_codec.encode(text)) if text and text.strip() else ()

    def _limit(self, probe: Probe, length: int) -> int:
        """At most the runtime's default: ``EXTRA_TOKENS`` more than the input, within the context."""
        prompt = self.spec.prompt_length if self.spec.encoder else length
        longest = self.max_context if self.to_the_end else min(FEWEST_STEPS, self.steps)
        most = SWEEP_NEW_TOKENS if probe.short else longest if probe.name == LONGEST else self.steps
        return min(most, length + EXTRA_TOKENS, self.max_context, self.max_context + 1 - prompt)

    def _greedy(self, decoded: Decoded, prompt: tuple[int, ...]) -> Greedy:
        assert decoded.logits is not None
        return Greedy(**self._trace(decoded, prompt), steps=tuple(map(self._step, decoded.logits)))

    def _beam(self, decoded: Decoded, prompt: tuple[int, ...]) -> Beam:
        return Beam(
            **self._trace(decoded, prompt),
            beam_size=BEAM_SIZE,
            length_penalty=LENGTH_PENALTY,
            normalized_score=decoded.normalized_score,
            margin=decoded.decision_gap if math.isfinite(decoded.decision_gap) else None,
        )

    def _trace(self, decoded: Decoded, prompt: tuple[int, ...]) -> dict[str, Any]:
        return {
            "tokens": decoded.tokens,
            "token_log_probs": decoded.token_log_probs,
            "score": decoded.score,
            "finish_reason": decoded.finish_reason,
            "text": self.codec.continuation(prompt, decoded.tokens),
        }

    def _step(self, logits: Logits) -> Step:
        """What a case keeps of ``logits (V,)``."""
        logits = np.asarray(logits)
        best = np.argsort(-logits, kind="stable")[:TOP_CANDIDATES]
        top = logits[best].tolist()
        return Step(
            top_ids=tuple(best.tolist()),
            top_logits=tuple(top),
            margin=top[0] - top[1],
            log_normalizer=log_sum_exp(logits),
            logits=tuple(logits[list(self.logit_ids)].tolist()),
            folds=tuple(fold(logits).tolist()),
        )


class TorchRecorder(Recorder):
    """The network is the reference of a checkpoint."""

    def __init__(
        self, checkpoint: Checkpoint, codec: Codec, max_context: int, source_codec: Codec | None = None
    ) -> None:
        self.model = checkpoint.model
        weights = sum(p.numel() for p in self.model.parameters())
        spec = ModelSpec.from_json(self.model.config.to_json())
        super().__init__(spec, weights, codec, max_context, source_codec)

    def searched(self, spec: ModelSpec, input_ids: tuple[int, ...], limit: int) -> tuple[Decoded, Decoded]:
        """See :class:`Recorder`."""
        with directed(self.model, spec):
            return self.search(input_ids, limit)

    def search(self, source: Source, limit: int) -> tuple[Decoded, Decoded]:
        """Both searches from what the network is asked as it stands."""
        from ..models import cached, decode

        if self.cached:
            greedy = cached.greedy(self.model, source, limit)
            return greedy, cached.beam(self.model, source, BEAM_SIZE, LENGTH_PENALTY, limit)
        greedy = decode.greedy(self.model, source, limit)
        return greedy, decode.beam(self.model, source, BEAM_SIZE, LENGTH_PENALTY, limit)[0]

    def vocabulary_logits(self, input_ids: tuple[int, ...], place: int) -> Logits:
        """See :class:`Recorder`."""
        return self._ask(input_ids, None, lambda hidden, mask: self.model.logits(hidden[:, place]))

    def class_logits(self, input_ids: tuple[int, ...], second_from: int | None) -> Logits:
        """See :class:`Recorder`."""
        return self._ask(input_ids, second_from, self.model.classify)

    def token_logits(self, input_ids: tuple[int, ...], second_from: int | None) -> Logits:
        """See :class:`Recorder`."""
        return self._ask(input_ids, second_from, lambda hidden, mask: self.model.tag(hidden))

    def vector(self, input_ids: tuple[int, ...]) -> Logits:
        """See :class:`Recorder`."""
        return self._ask(input_ids, None, self.model.pool)

    def _ask(
        self, input_ids: tuple[int, ...], second_from: int | None, head: Callable[[Tensor, Tensor], Tensor]
    ) -> Logits:
        """What ``head`` makes of the hidden states ``(1, S, D)`` of a text or a pair, and their mask ``(1, S)``."""
        import torch

        from ..models import decode

        with torch.inference_mode():
            ids, mask = decode.right_pad([input_ids], self.model.config.pad_id)
            hidden = self.model.encode(ids, mask, segments_of(self.model.config, ids, second_from))
            found: Logits = head(hidden, mask)[0].numpy()
        return found
