"""Replaying the reference cases of a bundle on this machine, without torch.

For every case: the tokenizer (text to ids, and the recorded tokens back to the recorded text); teacher-forced, token by
token through the cache as decoding does it, and again in one pass over a batch of cases padded to one length; then
free-running, greedy and beam. What is compared: :mod:`edgewise.runtime.compare`; how far it may differ:
:mod:`edgewise.runtime.tolerances` and, for deeper networks, :mod:`edgewise.runtime.noise`. What a
quantized variant is compared with besides, so that a few damaged weights do not hide in its rounding:
:mod:`edgewise.runtime.own_integers`. What joining, speculation and alignments run on, a few cases go through as well:
:mod:`edgewise.runtime.verify_graphs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EdgewiseError
from .bundle.cases import TOP_CANDIDATES, Case, Masked, ReferenceCases
from .bundle.model_spec import ModelSpec
from .case_sources import memory_of
from .compare import Comparison, greedy_margin
from .decoding import Request, capacity, start_search
from .encoders import masked_tokens
from .engine import Candidates, Floats, Ids, Memory
from .inputs import Prepared, right_pad, segments_of
from .noise import tolerance_of
from .options import DecodingOptions
from .own_integers import OwnIntegersReplay
from .results import TokenHypothesis
from .search import finish
from .tolerances import Tolerance
from .verification import VerificationReport
from .verify_graphs import verify_graphs

if TYPE_CHECKING:
    from .session import Session

Progress = Callable[[int, int], None]
"""Told how many of how many cases are done."""

BATCH = 8
WINDOWS = 2
"""Of speech: a window of the smallest Whisper takes as much as a text of 1500 tokens, some 0.2 GB."""
_MAX_LOGITS = 1 << 26  # of one batch: 256 MiB


def verify(session: Session, progress: Progress | None = None) -> VerificationReport:
    """Replay every reference case of the session's bundle on its engine.

    Raises:
        BundleFormatError: the reference cases, or the quantized reference, are malformed.
        EngineError: the session is closed.
    """
    begin = time.perf_counter()
    cases, precision = session.bundle.cases(), session.variant.precision
    quantized = session.bundle.quantized(session.variant, cases)
    rounds = any(choice.kernel in ("int8-rows", "int8-scaled-rows") for choice in session.variant.kernels)
    own = OwnIntegersReplay(quantized, rounds) if quantized else None
    tolerance = tolerance_of(precision, session.manifest.model)
    replay = _Replay(session, cases, own, tolerance)
    for batch in _batches(cases.cases, session.manifest.model):
        replay.together(batch)
    for done, case in enumerate(cases.cases, start=1):
        replay.alone(case)
        if progress:
            progress(done, len(cases.cases))
    graphs = verify_graphs(session.engine, session.manifest.model, session.variant, cases.cases, tolerance)
    return VerificationReport(
        name=session.manifest.name,
        task=session.manifest.task,
        target=session.variant.target,
        precision=precision,
        engine=session.engine.describe(),
        tolerance=tolerance,
        cases=tuple(replay.comparisons[case.name].report() for case in cases.cases),
        own_integers=own.found(session.engine, session.manifest.model.positions == "sinusoidal") if own else None,
        graphs=graphs,
        seconds=time.perf_counter() - begin,
        reference=session.manifest.provenance.get("reference", "PyTorch"),
    )


def _batches(cases: Sequence[Case], model: ModelSpec) -> Iterator[list[Case]]:
    """Cases of any lengths together, as long as their logits stay within ``_MAX_LOGITS``."""
    most = WINDOWS if model.speech else BATCH
    batch: list[Case] = []
    for case in cases:
        longest = max(_length(c) for c in [*batch, case])
        if batch and (len(batch) == most or (len(batch) + 1) * longest * model.vocab_size > _MAX_LOGITS):
            yield batch
            batch = []
        batch.append(case)
    yield batch


def _length(case: Case) -> int:
    return len(case.input_ids) + (len(case.greedy.tokens) if case.greedy else 0)


class _Replay:
    """One session, its cases, and what was found of each."""

    def __init__(
        self, session: Session, cases: ReferenceCases, own: OwnIntegersReplay | None, tolerance: Tolerance
    ) -> None:
        self.session, self.engine, self.model, self.own = session, session.engine, session.manifest.model, own
        self.comparisons = {c.name: Comparison(c.name, tolerance, cases.logit_ids) for c in cases.cases}
        self.places = {case.name: i for i, case in enumerate(cases.cases)}
        self.vectors = np.array([case.embedded.vector for case in cases.cases if case.embedded], np.float64)

    def together(self, batch: list[Case]) -> None:
        """All of ``batch`` in one pass."""
        with self._watch(batch):
            if self.model.decoder:
                self._one_pass(batch)
            else:
                self._encoded(batch, "in a batch")

    def alone(self, case: Case) -> None:
        """Everything else that a case is asked."""
        with self._watch([case]):
            self._tokenizer(case)
        with self._watch([case]):
            if self.model.decoder:
                self._step_by_step(case)
            else:
                self._encoded([case], "alone")
        if self.model.decoder:
            with self._watch([case]):
                self._free_running(case)

    @contextmanager
    def _watch(self, cases: list[Case]) -> Iterator[None]:
        """An engine that fails has failed these cases. The time is shared out among them."""
        begin = time.perf_counter()
        try:
            yield
        except EdgewiseError as error:
            for case in cases:
                self.comparisons[case.name].fault(f"{type(error).__name__}: {error}")
        for case in cases:
            self.comparisons[case.name].seconds += (time.perf_counter() - begin) / len(cases)

    def _tokenizer(self, case: Case) -> None:
        check, tokenizer = self.comparisons[case.name], self.session.tokenizer
        if case.text is not None:
            ids = self._ids(case, case.text)
            if ids != case.input_ids:
                check.fault(f"tokenizer: the text becomes {_few(ids)}, expected {_few(case.input_ids)}")
        prompt = () if self.model.encoder else case.input_ids
        for trace in (case.greedy, case.beam):
            if trace and (text := tokenizer.continuation(prompt, trace.tokens)) != trace.text:
                check.fault(f"tokenizer: {_few(trace.tokens)} become {text[:80]!r}, expected {trace.text[:80]!r}")

    def _ids(self, case: Case, text: str) -> tuple[int, ...]:
        """What the network is given for the ``text`` of a case, and for its ``pair`` where it is the first of two."""
        manifest, tokenizer = self.session.manifest, self.session.source_tokenizer
        if manifest.task == "fill_mask":
            return masked_tokens(tokenizer, manifest, text)[0]
        ids = tokenizer.encode(text)
        if case.pair is not None:
            return self.model.pair(ids, tokenizer.encode(case.pair))
        return self.model.prompt(ids) if manifest.task == "generate" else case.directed(self.model).source(ids)

    def _memory(self, cases: Sequence[Case]) -> Memory:
        return memory_of(self.engine, self.model, cases)

    def _one_pass(self, batch: list[Case]) -> None:
        """Teacher-forced over whole sequences, padded."""
        fed = [(*case.prompt(self.model), *case.greedy.tokens[:-1]) for case in batch if case.greedy]
        logits = self.engine.decoder_logits(self._memory(batch), *right_pad(fed, self.model.pad_id))
        for row, case in zip(logits, batch, strict=True):
            assert case.greedy is not None
            first = len(case.prompt(self.model)) - 1
            for i, step in enumerate(case.greedy.steps):
                token, log_prob = case.greedy.tokens[i], case.greedy.token_log_probs[i]
                self.comparisons[case.name].step(f"one pass, token {i}", row[first + i], step, token, log_prob)
                if self.own:
                    self.own.scores("one pass", case.name, i, row[first + i], token)

    def _step_by_step(self, case: Case) -> None:
        """Teacher-forced through the cache, and the candidates that the engine chooses there."""
        greedy, check, prompt = case.greedy, self.comparisons[case.name], case.prompt(self.model)
        assert greedy is not None
        run = self.engine.start(
            self._memory([case]), 1, 1, capacity(len(prompt), len(greedy.tokens)), self._candidates()
        )
        best: Candidates = run.prefill(np.array([prompt], dtype=np.int64))
        for i, (token, step) in enumerate(zip(greedy.tokens, greedy.steps, strict=True)):
            logits, where = run.last_logits()[0], f"token {i}"
            check.step(where, logits, step, token, greedy.token_log_probs[i])
            check.candidates(where, best, logits, step)
            if self.own:
                self.own.scores("by steps", case.name, i, logits, token)
            if i + 1 < len(greedy.tokens):
                best = run.step(np.array([token], dtype=np.int64), np.zeros(1, dtype=np.int64))

    def _candidates(self) -> int:
        return min(TOP_CANDIDATES, self.model.vocab_size)

    def _free_running(self, case: Case) -> None:
        check = self.comparisons[case.name]
        assert case.greedy is not None and case.beam is not None
        found = self._decode(case, 1, 0.0)
        check.greedy = check.search("greedy", found, case.greedy, greedy_margin(found, case.greedy))
        found = self._decode(case, case.beam.beam_size, case.beam.length_penalty)
        check.beam = check.search(f"beam {case.beam.beam_size}", found, case.beam, case.beam.margin)

    def _decode(self, case: Case, beam_size: int, length_penalty: float) -> TokenHypothesis:
        assert case.max_new_tokens is not None
        source = Prepared(ids=case.input_ids, prompt=case.prompt(self.model))
        request = Request(source=source, limit=case.max_new_tokens)
        options = DecodingOptions(beam_size=beam_size, length_penalty=length_penalty)
        memory = self._memory([case]) if self.model.speech else None
        return finish(start_search(self.engine, self.model, [request], options, memory=memory))[0][0]

    def _encoded(self, batch: list[Case], where: str) -> None:
        """Scores or vectors of an encoder-only model."""
        ids, mask = right_pad([case.input_ids for case in batch], self.model.pad_id)
        sources = [Prepared(ids=case.input_ids, second_from=case.second_from) for case in batch]
        segments = segments_of(self.model, sources, ids.shape[1])
        masks = self._masks(batch) if self.model.head == "vocabulary" else None
        _, logits = self.engine.encode(ids, mask, masks, segments)
        for row, case in zip(logits, batch, strict=True):
            check = self.comparisons[case.name]
            if case.embedded:
                check.vector(where, row, self.places[case.name], self.vectors)
                if self.own:
                    self.own.vector(where, case.name, row)
            elif case.classified:
                check.classes(where, row, case.classified, self.model.class_names)
                if self.own:
                    self.own.classes(where, case.name, 0, row)
            elif case.token_scores:
                check.tokens(where, row, case.token_scores, self.model.head == "span")
                for i, token in enumerate(case.token_scores):
                    if self.own:
                        self.own.classes(where, case.name, i, row[token.position])
            for i, (masked, scores) in enumerate(zip(case.masked or (), row, strict=False)):
                _compare_mask(check, where, masked, scores)
                if self.own:
                    self.own.scores(where, case.name, i, scores, masked.scores.top_ids[0])

    def _masks(self, batch: list[Case]) -> Ids:
        """Where the masks of every case are, ``(B, N)``; a case with fewer repeats its first."""
        places = [[m.position for m in case.masked or ()] for case in batch]
        most = max(map(len, places))
        return np.array([[*p, *[p[0]] * (most - len(p))] for p in places], dtype=np.int64)


def _compare_mask(check: Comparison, where: str, masked: Masked, logits: Floats) -> None:
    scores = masked.scores
    token = scores.top_ids[0]
    check.step(
        f"{where}, mask at {masked.position}", logits, scores, token, scores.top_logits[0] - scores.log_normalizer
    )


def _few(ids: Sequence[int]) -> str:
    return str(list(ids[:12])) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")
