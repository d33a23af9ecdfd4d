"""The runtime's search against the oracle of ``models``, over an engine that is the reference itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.errors import EngineError
from edgewise.models import decode
from edgewise.models.transformer import Transformer
from edgewise.runtime.engine import Candidates, Ids, places_kept
from edgewise.runtime.results import TokenHypothesis
from edgewise.runtime.search import Search, candidates_needed, finish, length_norm, search, worth_leaving

from ..tiny import END, START, random_sources, tiny_model
from .torch_engine import TorchEngine

Limits = list[int]


def start(
    model: Transformer, sources: list[list[int]], limits: Limits, beam_size: int, penalty: float, n_best: int
) -> tuple[TorchEngine, Search]:
    engine = TorchEngine(model)
    if model.encoder is None:
        memory, prompts = None, np.array(sources)
    else:
        ids, mask = decode.right_pad(sources, model.config.pad_id)
        memory = engine.encode_source(ids.numpy(), mask.numpy())
        prompts = np.full((len(sources), 1), START)
    capacity = prompts.shape[1] + max(limits) - 1
    run = engine.start(memory, len(sources), beam_size, capacity, candidates_needed(beam_size))
    return engine, search(run, prompts, limits, END, beam_size=beam_size, length_penalty=penalty, n_best=n_best)


def same(found: list[list[TokenHypothesis]], expected: list[list[decode.Decoded]]) -> Counter[tuple[int, str]]:
    """Compare, and tell which lengths and reasons there were."""
    seen: Counter[tuple[int, str]] = Counter()
    for sentence, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert [h.tokens for h in ours] == [h.tokens for h in theirs], f"sentence {sentence}"
        for one, other in zip(ours, theirs, strict=True):
            assert one.finish_reason == other.finish_reason
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-5)
            assert one.score == sum(one.token_log_probs)
            assert one.normalized_score == pytest.approx(other.normalized_score, abs=1e-4)
            assert len(one.tokens) == len(one.token_log_probs)
            seen[len(one.tokens), one.finish_reason] += 1
        best = [h.normalized_score for h in ours]
        assert best == sorted(best, reverse=True)
    return seen


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0], ids="penalty{}".format)
@pytest.mark.parametrize("beam_size", [1, 2, 3, 5], ids="beam{}".format)
@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder"])
def test_search_is_the_oracle(architecture: str, beam_size: int, penalty: float) -> None:
    seen: Counter[tuple[int, str]] = Counter()
    for seed in range(6):
        model = tiny_model(seed, architecture, end_bias=0.5)  # type: ignore[arg-type]
        sources = random_sources(seed, 6) if architecture != "decoder" else [[START, 4 + i, 9] for i in range(6)]
        limits = [20, 20, 1, 2, 20, 7]
        _, steps = start(model, sources, limits, beam_size, penalty, beam_size)
        seen += same(finish(steps), decode.beam_batch(model, sources, beam_size, penalty, limits, beam_size))
    assert len({length for length, _ in seen}) > 4, "the lengths should vary, or this shows little"
    assert {reason for _, reason in seen} == {"end", "length"}


@pytest.mark.parametrize("beam_size", [1, 4])
def test_n_best_gives_the_first_of_all(beam_size: int) -> None:
    model, sources = tiny_model(4), random_sources(4, 5)
    _, steps = start(model, sources, [12] * 5, beam_size, 0.6, beam_size)
    everything = finish(steps)
    for n_best in range(1, beam_size + 1):
        _, steps = start(model, sources, [12] * 5, beam_size, 0.6, n_best)
        assert finish(steps) == [hypotheses[:n_best] for hypotheses in everything]


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_ties_go_to_the_lower_beam_then_the_lower_id(beam_size: int) -> None:
    model = tiny_model(0, end_bias=0.0)
    model.embedding.weight.data.zero_()  # every token is as probable as every other
    sources = random_sources(0, 3)
    _, steps = start(model, sources, [3] * 3, beam_size, 0.6, beam_size)
    found = finish(steps)
    same(found, decode.beam_batch(model, sources, beam_size, 0.6, 3, beam_size))
    assert found[0][0].tokens == ((0, 0, 0) if beam_size < 3 else found[0][0].tokens)


def test_the_search_yields_what_each_step_chose_and_stops_when_all_are_done() -> None:
    model, sources = tiny_model(5), random_sources(5, 4)
    engine, steps = start(model, sources, [12] * 4, 1, 0.6, 1)
    yielded: list[Ids] = []
    while True:
        try:
            yielded.append(next(steps))
        except StopIteration as stop:
            found = stop.value
            break
    assert len(yielded) == max(len(h[0].tokens) for h in found)
    assert engine.runs[0].steps == len(yielded) - 1, "the last token is read by nobody"
    for step, chosen in enumerate(yielded):
        still = [h[0].tokens[step] for h in found if len(h[0].tokens) > step]
        assert not Counter(still) - Counter(chosen.tolist())


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder"])
def test_sentences_that_are_done_leave_the_run(architecture: str, beam_size: int) -> None:
    model = tiny_model(3, architecture, end_bias=-9.0)  # type: ignore[arg-type]
    sources = [[START, 4 + i, 9] for i in range(9)]
    limits = [7, 1, 9, 2, 9, 3, 4, 9, 5]
    engine, steps = start(model, sources, limits, beam_size, 0.6, beam_size)
    widths = []
    while True:
        try:
            widths.append(len(next(steps)) // beam_size)
        except StopIteration as stop:
            found = stop.value
            break
    assert widths == [9, 9, 7, 6, 5, 4, 4, 3, 3]
    assert engine.runs[0].kept == [7, 6, 5, 4, 3]
    same(found, decode.beam_batch(model, sources, beam_size, 0.6, limits, beam_size))


def test_few_of_many_stay_until_leaving_pays() -> None:
    live = np.ones(32, np.bool_)
    live[:3] = False
    assert not worth_leaving(live)
    live[3] = False
    assert worth_leaving(live)
    assert not worth_leaving(np.zeros(4, np.bool_)), "when all are done there is nothing left to save"
    assert not worth_leaving(np.ones(1, np.bool_))


@pytest.mark.parametrize(
    ("live", "places"), [("10101", [0, 4, 2]), ("0001", [3]), ("1111", [0, 1, 2, 3]), ("011", [2, 1])]
)
def test_the_last_fill_the_places_of_those_that_go(live: str, places: list[int]) -> None:
    assert places_kept(np.array([c == "1" for c in live])).tolist() == places


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_closed_search_asks_the_engine_for_nothing_more(beam_size: int) -> None:
    engine, steps = start(tiny_model(5), random_sources(5, 2), [12] * 2, beam_size, 0.6, 1)
    next(steps)
    steps.close()
    assert engine.runs[0].steps == 0
    assert list(steps) == []


class BrokenRun:
    """An engine that computes NaN from some step on."""

    def __init__(self, rows: int, width: int, broken_from: int) -> None:
        self.shape, self.left = (rows, width), broken_from

    def prefill(self, ids: Ids) -> Candidates:
        return self._answer()

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        return self._answer()

    def keep(self, sentences: Ids) -> None:
        raise NotImplementedError

    def last_logits(self) -> NDArray[np.float32]:
        raise NotImplementedError

    def _answer(self) -> Candidates:
        values = np.linspace(-1, -2, self.shape[0] * self.shape[1], dtype=np.float32).reshape(self.shape)
        if self.left == 0:
            values[-1, -1] = np.nan
        self.left -= 1
        return Candidates(values, np.tile(np.arange(4, 4 + self.shape[1]), (self.shape[0], 1)))


@pytest.mark.parametrize("beam_size", [1, 2])
@pytest.mark.parametrize("broken_from", [0, 2])
def test_nan_is_an_error_and_never_a_token(beam_size: int, broken_from: int) -> None:
    run = BrokenRun(2 * beam_size, candidates_needed(beam_size), broken_from)
    with pytest.raises(EngineError, match=f"NaN log-probabilities at step {broken_from}: .* `edgewise verify`"):
        finish(search(run, np.full((2, 1), START), [9, 9], END, beam_size=beam_size))


def test_the_length_norm_by_hand() -> None:
    assert length_norm(1, 0.6) == 1.0
    assert length_norm(7, 1.0) == 2.0
    assert length_norm(7, 0.5) == pytest.approx(2**0.5)
    assert length_norm(100, 0.0) == 1.0
    assert length_norm(7, 2.0, "power") == 49.0
    assert length_norm(0, 1.0, "power") == 1.0
