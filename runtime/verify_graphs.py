"""Replaying a few cases through the graphs that only some requests run on: joining, speculation and alignments.

The recorded tokens are fed to each of them. What joins is compared with a plain run of the same engine, which
:mod:`.verify` compares with the reference, and so is what reads several tokens at once, which gives the bits of a step
where it was tried; an engine that sums other numbers of rows in another order is bound like what joins. Attention
weights are not recorded: they have to be distributions, the same ones alone and beside others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..errors import EdgewiseError
from .alignments import attention_of
from .bundle import signature as names
from .bundle.cases import TOP_CANDIDATES, Case, log_sum_exp
from .bundle.manifest import Variant
from .bundle.model_spec import ModelSpec
from .case_sources import memory_of
from .decoding import capacity
from .engine import Candidates, DecoderRun, Engine, Floats, Ids, Memory, places_kept
from .tolerances import STEADY_SHARE, STEADY_STEP, Tolerance
from .verification import GraphReport

SENTENCES = 4
TOKENS = 32  # of a sentence, at most
_APART = 2  # steps between two that join
_SUM = 1e-4  # by how much the attention weights of a token may miss one
_MAX_FAULTS = 3
_ROW = np.zeros(1, np.int64)


def verify_graphs(
    engine: Engine, model: ModelSpec, variant: Variant, cases: Sequence[Case], tolerance: Tolerance
) -> tuple[GraphReport, ...]:
    """What was found of each such graph that ``variant`` has; nothing without a decoder, or where it has none."""
    if model.decoder is None or variant.cache.layout == "growing":  # there every request runs on the same graphs
        return ()
    sentences = [_Sentence(engine, model, case) for case in _longest(cases)]
    joins = names.RAGGED if names.RAGGED in variant.graphs else names.DECODER
    checks: Mapping[str, Callable[[_Check], None]] = {
        joins: lambda check: _join(engine, sentences, check),
        names.VERIFY: lambda check: _read_several(engine, model, sentences, check),
        names.ALIGNMENT: lambda check: _attend(engine, model, sentences, check),
    }
    return tuple(_checked(graph, check, tolerance) for graph, check in checks.items() if graph in variant.graphs)


def _checked(graph: str, check: Callable[[_Check], None], tolerance: Tolerance) -> GraphReport:
    found = _Check(tolerance)
    try:
        check(found)
    except EdgewiseError as error:  # an engine that fails has failed the graph
        found.faults.append(f"{type(error).__name__}: {error}")
    faults = found.faults[:_MAX_FAULTS]
    if more := len(found.faults) - len(faults):
        faults.append(f"and {more} more")
    return GraphReport(graph=graph, steps=len(found.off), largest=max(found.off, default=0.0), faults=tuple(faults))


def _longest(cases: Sequence[Case]) -> list[Case]:
    """The cases with the most recorded tokens, of these the shortest text first."""
    decoded = [case for case in cases if case.greedy and case.greedy.tokens]
    decoded.sort(key=lambda case: len(case.greedy.tokens) if case.greedy else 0, reverse=True)
    return sorted(decoded[:SENTENCES], key=lambda case: len(case.input_ids))


class _Check:
    """How far each step was off, and what is wrong."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.off: list[float] = []
        self.faults: list[str] = []

    def bound(self, where: str, off: float, most: float, what: str) -> None:
        """Note a step, and a fault where it is off by more than ``most``."""
        self.off.append(off)
        if not off <= most:
            self.faults.append(f"{where}: {what} by {off:.3g}, expected at most {most:g}")

    def mostly_near(self) -> None:
        """A row is its own but for a rounding here and there: most steps are near, however far the others may be."""
        near = sum(off <= STEADY_STEP for off in self.off)
        if self.tolerance.rows_are_their_own and near < STEADY_SHARE * len(self.off):
            self.faults.append(
                f"{near} of {len(self.off)} steps within {STEADY_STEP:g} of a plain run, "
                f"expected at least {STEADY_SHARE:.0%}"
            )


class _Sentence:
    """A case, and the tokens that decoding it reads: its prompt and what it was recorded to choose."""

    def __init__(self, engine: Engine, model: ModelSpec, case: Case) -> None:
        assert case.greedy is not None
        self.engine, self.model, self.case = engine, model, case
        self.tokens = case.greedy.tokens[:TOKENS]
        self.prompt = case.prompt(model)
        self.capacity = capacity(len(self.prompt), len(self.tokens))
        self.candidates = min(TOP_CANDIDATES, model.vocab_size)

    def memory(self) -> Memory:
        """Its source, encoded alone."""
        return memory_of(self.engine, self.model, [self.case])

    def plain(self) -> _Plain:
        """A plain run of it."""
        run = self.engine.start(self.memory(), 1, 1, self.capacity, self.candidates)
        return _Plain(self.case.name, run, self.prompt, self.tokens)


class _Plain:
    """One sentence in a run of its own, a token a step; the first of them is the last of its prompt."""

    def __init__(self, name: str, run: DecoderRun, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        self.name, self.run, self.length = name, run, len(prompt)
        self.feed = [prompt[-1], *tokens[:-1]]
        self.done = 0
        if self.length > 1:
            run.prefill(np.array([prompt[:-1]], np.int64))

    @property
    def left(self) -> bool:
        """Whether a token is still to be read."""
        return self.done < len(self.feed)

    def step(self) -> tuple[str, Candidates, Floats]:
        """Where it is, candidates ``(1, k)`` and logits ``(V,)``."""
        where, ids = f"{self.name}, token {self.done}", np.array(self.feed[self.done : self.done + 1], np.int64)
        first = self.done == 0 and self.length == 1
        best = self.run.prefill(ids[None]) if first else self.run.step(ids, _ROW)
        self.done += 1
        return where, best, self.run.last_logits()[0]


def _join(engine: Engine, sentences: Sequence[_Sentence], check: _Check) -> None:
    """One joins two steps after the other, and leaves with its last token; a plain run of each goes along."""
    run = engine.open_run(1, sentences[0].candidates) if sentences else None
    if run is None:
        return
    waiting, live = list(sentences), list[_Plain]()
    for step in range(_APART * len(sentences) + sum(len(s.tokens) for s in sentences)):
        if waiting and (step % _APART == 0 or not live):
            new = waiting.pop(0)
            run.join(new.memory(), np.array([new.prompt], np.int64), new.capacity)
            live.append(new.plain())
        if not live:
            break
        best = run.step(np.array([plain.feed[plain.done] for plain in live], np.int64), np.arange(len(live)))
        logits = run.last_logits()
        for row, plain in enumerate(live):
            where, expected, own = plain.step()
            found = Candidates(best.log_probs[row : row + 1], best.ids[row : row + 1])
            off = _apart(found, logits[row], expected, own)
            check.bound(where, off, check.tolerance.beside, "beside others its log-probabilities move")
        stay = np.array([plain.left for plain in live])
        if not stay.all():
            kept = places_kept(stay)
            run.keep(kept)
            live = [live[place] for place in kept]
    check.mostly_near()


def _apart(found: Candidates, logits: Floats, expected: Candidates, own: Floats) -> float:
    """By how much one step's log-probabilities differ: at the candidates of either, and place by place."""
    at_expected = _at(logits, expected.ids) - expected.log_probs
    at_found = _at(own, found.ids) - found.log_probs
    return float(np.abs([at_expected, at_found, found.log_probs - expected.log_probs]).max())


def _at(logits: Floats, ids: Ids) -> Floats:
    at: Floats = np.take(logits, ids, mode="clip") - np.float32(log_sum_exp(logits))
    return at


def _read_several(engine: Engine, model: ModelSpec, sentences: Sequence[_Sentence], check: _Check) -> None:
    """As many tokens at once as there are; of several the last is taken back, and read again in the next pass."""
    most = engine.verify_tokens
    for sentence in sentences if most else ():
        plain = sentence.plain()
        room = min(sentence.capacity + most, model.max_positions)
        run = engine.start_verifying(sentence.memory(), room, sentence.candidates)
        other = _Plain(sentence.case.name, run, sentence.prompt, sentence.tokens)
        _compare_first(plain, other, check)
        while plain.left and plain.length - 1 + plain.done + most <= room:
            ids = plain.feed[plain.done : plain.done + most]
            best, logits = run.verify(np.array(ids, np.int64)), run.last_logits()
            kept = max(1, len(ids) - 1)
            for t in range(kept):
                found = Candidates(best.log_probs[t : t + 1], best.ids[t : t + 1])
                _compare(check, plain.step(), found, logits[t])
            run.rewind(len(ids) - kept)
    check.mostly_near()


def _compare_first(plain: _Plain, other: _Plain, check: _Check) -> None:
    """The step that both runs make with the same graph, so that the others begin from the same."""
    _, found, logits = other.step()
    _compare(check, plain.step(), found, logits)


def _compare(check: _Check, expected: tuple[str, Candidates, Floats], found: Candidates, logits: Floats) -> None:
    where, best, own = expected
    pairs = ((logits, own), (found.ids, best.ids), (found.log_probs, best.log_probs))
    off = 0.0 if all(np.array_equal(one, other) for one, other in pairs) else _apart(found, logits, best, own)
    check.bound(where, off, check.tolerance.beside, "read at once its log-probabilities move")


def _attend(engine: Engine, model: ModelSpec, sentences: Sequence[_Sentence], check: _Check) -> None:
    """Weights of all sentences together, and of each alone."""
    together = _weights(engine, model, sentences)
    for sentence, beside in zip(sentences, together, strict=True):
        [alone] = _weights(engine, model, [sentence])
        for t, (row, other) in enumerate(zip(beside, alone, strict=True)):
            where = f"{sentence.case.name}, token {t}"
            off = float(np.abs(row - other).max())
            check.bound(where, off, check.tolerance.beside, "beside others its attention weights move")
            check.faults.extend(_no_distribution(where, row))


def _weights(engine: Engine, model: ModelSpec, sentences: Sequence[_Sentence]) -> list[Floats]:
    sources = [sentence.case.input_ids for sentence in sentences]
    targets, prompts = [s.tokens for s in sentences], [s.prompt for s in sentences]
    return attention_of(engine, model, sources, targets, prompts, max(1, len(sources)), lambda: None)


def _no_distribution(where: str, weights: Floats) -> Iterator[str]:
    least, total = float(weights.min()), float(weights.sum())
    if not (least >= 0 and abs(total - 1) <= _SUM):
        yield f"{where}: attention weights from {least:.3g} with sum {total:.6g}, expected none below 0 and sum 1"
