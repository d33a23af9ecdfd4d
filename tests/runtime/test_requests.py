"""Searches with options against the naive oracle, for random options on tiny models."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgewise.errors import InputError
from edgewise.models import decode, decode_options
from edgewise.models.attention import cross_attention_weights
from edgewise.models.decode_options import Naive, Options
from edgewise.models.transformer import Transformer
from edgewise.runtime.beams import BeamRequest
from edgewise.runtime.coverage import attention_from
from edgewise.runtime.draws import SampleRequest
from edgewise.runtime.engine import Candidates
from edgewise.runtime.options import DecodingOptions, Sampling
from edgewise.runtime.requests import RequestSearch, Task, common_prefix, search_requests
from edgewise.runtime.results import TokenHypothesis
from edgewise.runtime.search import finish

from ..tiny import END, START, random_sources, tiny_model
from .torch_engine import TorchEngine

VOCABULARY = 24
SAFE = 1e-4
"""Differences that rounding, in float32 and other batches, does not reach."""
Given = dict[str, Any]


def text_of(tokens: Sequence[int]) -> str:
    """A letter a token, so that stop strings span tokens."""
    return "".join(chr(ord("a") + token) for token in tokens)


def rules() -> st.SearchStrategy[Given]:
    ids = st.integers(0, VOCABULARY - 1)
    return st.fixed_dictionaries(
        {},
        optional={
            "repetition_penalty": st.sampled_from([0.8, 1.3, 2.0]),
            "presence_penalty": st.sampled_from([-0.5, 0.7]),
            "frequency_penalty": st.sampled_from([-0.3, 0.4]),
            "no_repeat_ngram": st.integers(1, 3),
            "suppress": st.lists(st.lists(ids, min_size=1, max_size=2).map(tuple), min_size=1, max_size=4),
            "logit_bias": st.dictionaries(ids, st.sampled_from([-2.0, 1.5]), max_size=3),
            "min_new_tokens": st.integers(1, 4),
            "stop": st.lists(st.text("abcdefghijklmnopqrstuvwx", min_size=1, max_size=2), min_size=4, max_size=9),
        },
    )


def searches() -> st.SearchStrategy[Given]:
    penalty = st.fixed_dictionaries({"length_penalty": st.sampled_from([0.0, 0.6, 2.0])})
    beams = st.fixed_dictionaries(
        {"beam_size": st.integers(2, 4)},
        optional={
            "early_stopping": st.sampled_from([False, True, "never"]),
            "patience": st.sampled_from([0.5, 2.0]),
            "coverage_penalty": st.sampled_from([0.2, 1.0]),
        },
    )
    groups = st.sampled_from([(2, 2), (4, 2), (3, 3), (4, 4)]).flatmap(
        lambda shape: st.fixed_dictionaries(
            {"beam_size": st.just(shape[0]), "beam_groups": st.just(shape[1])},
            optional={"early_stopping": st.sampled_from([True, "never"]), "coverage_penalty": st.just(0.5)},
        ).map(lambda found: {**found, "diversity_penalty": 0.7})
    )
    phrases = st.lists(
        st.lists(st.integers(4, VOCABULARY - 1), min_size=1, max_size=2).map(tuple),
        min_size=1,
        max_size=2,
        unique=True,
    )
    beams = st.one_of(beams, st.tuples(beams, phrases).map(lambda parts: {**parts[0], "include": parts[1]}))
    groups = st.one_of(groups, st.tuples(groups, phrases).map(lambda parts: {**parts[0], "include": parts[1]}))
    alone = st.one_of(st.just({}), st.fixed_dictionaries({"alternatives": st.integers(1, 4)}))
    return st.tuples(penalty, st.one_of(beams, groups, alone)).map(lambda parts: parts[0] | parts[1])


def draws() -> st.SearchStrategy[Given]:
    return st.fixed_dictionaries(
        {"temperature": st.sampled_from([0.5, 1.0, 1.7])},
        optional={
            "top_k": st.integers(1, 30),
            "top_p": st.sampled_from([0.3, 0.9, 1.0]),
            "min_p": st.sampled_from([0.05, 0.5]),
            "typical_p": st.sampled_from([0.2, 0.9]),
        },
    )


PREFIXES = st.lists(st.integers(4, VOCABULARY - 1), max_size=3)


def decoded(
    model: Transformer, sources: Sequence[Sequence[int]], tasks: Sequence[Task]
) -> tuple[list[list[TokenHypothesis]], TorchEngine]:
    """Every source with its own task, in one run."""
    engine = TorchEngine(model)
    ids, mask = decode.right_pad(sources, model.config.pad_id)
    memory = engine.encode_source(ids.numpy(), mask.numpy())
    tasks = [
        replace(t, attention=attention_from(engine, (START,), memory, place, len(source)))
        for place, (t, source) in enumerate(zip(tasks, sources, strict=True))
    ]
    requests: list[RequestSearch] = [SampleRequest(t) if t.options.sampling else BeamRequest(t) for t in tasks]
    rows = max(t.options.rows for t in tasks)
    run = engine.start(
        memory,
        len(sources),
        rows,
        max(t.limit for t in tasks),
        max(t.width for t in tasks),
    )
    prompts = np.full((len(sources), 1), START)
    return finish(search_requests(run, prompts, requests, rows)), engine


def task(options: DecodingOptions, limit: int, prefix: Sequence[int] = ()) -> Task:
    kind = "prefix" if options.prefix_bias is None else "soft_prefix"
    given: Any = {kind: tuple(prefix)}
    return Task(prompt=(START,), limit=limit, end_id=END, options=options, text_of=text_of, name="text 0", **given)


def assert_same(found: Sequence[TokenHypothesis], expected: Sequence[Naive], penalty: float) -> None:
    assert [h.tokens for h in found] == [n.tokens for n in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.finish_reason == other.reason
        assert one.token_log_probs == pytest.approx(other.log_probs, abs=1e-4)
        assert one.score == sum(one.token_log_probs)
        assert one.normalized_score == pytest.approx(other.ranked(penalty), abs=1e-3)


STRESS = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def test_searches_are_the_oracle() -> None:
    seen: Counter[str] = Counter()

    @STRESS
    @given(seed=st.integers(0, 9), search=searches(), rule=rules(), prefix=PREFIXES, limit=st.integers(4, 9))
    def compare(seed: int, search: Given, rule: Given, prefix: list[int], limit: int) -> None:
        model, (source,) = tiny_model(seed, end_bias=0.5), random_sources(seed, 1)
        pool = DecodingOptions(**search)
        n_best = min(pool.beam_size, pool.pool_size * pool.beam_groups)
        options = DecodingOptions(**search, **rule, n_best=n_best)
        asked = Options(**search, **rule, n_best=n_best, max_new_tokens=limit, prefix=prefix)
        expected, margin = decode_options.beam(model, source, asked, text_of)
        assume(margin > SAFE)
        if not expected:
            with pytest.raises(InputError, match="the options leave no token"):
                decoded(model, [source], [task(options, limit, prefix)])
            return
        (found,), _ = decoded(model, [source], [task(options, limit, prefix)])
        assert_same(found, expected, options.length_penalty)
        seen.update(h.finish_reason for h in found)
        seen.update(searches=1, **dict.fromkeys([*search, *rule], 1))

    compare()
    assert_every_option_was_seen(seen)
    assert {"early_stopping", "patience", "beam_groups", "alternatives"} <= set(seen)
    assert min(seen["include"], seen["coverage_penalty"]) > 10


BIASES = st.sampled_from([0.05, 0.3, 0.7, 0.99])
SOFT = st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=4)


def test_searches_towards_a_prefix_are_the_oracle() -> None:
    """The end token among its tokens too, and longer than the limit."""
    seen: Counter[str] = Counter()

    @STRESS
    @given(seed=st.integers(0, 9), search=searches(), rule=rules(), prefix=SOFT, bias=BIASES, limit=st.integers(3, 9))
    def compare(seed: int, search: Given, rule: Given, prefix: list[int], bias: float, limit: int) -> None:
        search.pop("alternatives", None)
        rule = {"prefix_bias": bias, **rule, "min_new_tokens": min(rule.get("min_new_tokens", 0), limit)}
        model, (source,) = tiny_model(seed, end_bias=0.5), random_sources(seed, 1)
        pool = DecodingOptions(**search)
        n_best = min(pool.beam_size, pool.pool_size * pool.beam_groups)
        options = DecodingOptions(**search, **rule, n_best=n_best)
        asked = Options(**search, **rule, n_best=n_best, max_new_tokens=limit, prefix=prefix)
        expected, margin = decode_options.beam(model, source, asked, text_of)
        assume(margin > SAFE and expected)
        (found,), _ = decoded(model, [source], [task(options, limit, prefix)])
        assert_same(found, expected, options.length_penalty)
        kept = list(found[0].tokens[: len(prefix)]) == prefix[: len(found[0].tokens)]
        seen.update(searches=1, **{"kept" if kept else "left": 1}, **dict.fromkeys([*search, *rule], 1))

    compare()
    assert seen["searches"] > 60, seen
    assert min(seen["kept"], seen["left"], seen["include"], seen["coverage_penalty"], seen["beam_groups"]) > 5, seen


def test_samples_towards_a_prefix_are_the_oracle() -> None:
    seen: Counter[str] = Counter()

    @STRESS
    @given(seed=st.integers(0, 9), drawn=draws(), rule=rules(), prefix=SOFT, bias=BIASES, limit=st.integers(4, 9))
    def compare(seed: int, drawn: Given, rule: Given, prefix: list[int], bias: float, limit: int) -> None:
        model, (source,) = tiny_model(seed, end_bias=0.5), random_sources(seed, 1)
        options = DecodingOptions(sampling=Sampling(**drawn, seed=seed, samples=3), **rule, prefix_bias=bias)
        asked = Options(**drawn, **rule, max_new_tokens=limit, prefix=prefix, prefix_bias=bias)
        expected, margin = decode_options.sample(model, source, asked, seed, 3, text_of)
        assume(margin > SAFE)
        (found,), _ = decoded(model, [source], [task(options, limit, prefix)])
        assert_same(found, expected, options.length_penalty)
        for hypothesis in found:
            kept = list(hypothesis.tokens[: len(prefix)]) == prefix[: len(hypothesis.tokens)]
            seen.update(samples=1, **{"kept" if kept else "left": 1})

    compare()
    assert min(seen["kept"], seen["left"]) > 30, seen


def test_samples_are_the_oracle() -> None:
    seen: Counter[str] = Counter()

    @STRESS
    @given(seed=st.integers(0, 9), drawn=draws(), rule=rules(), prefix=PREFIXES, limit=st.integers(4, 9))
    def compare(seed: int, drawn: Given, rule: Given, prefix: list[int], limit: int) -> None:
        model, (source,) = tiny_model(seed, end_bias=0.5), random_sources(seed, 1)
        options = DecodingOptions(sampling=Sampling(**drawn, seed=seed, samples=3), **rule)
        asked = Options(**drawn, **rule, max_new_tokens=limit, prefix=prefix)
        expected, margin = decode_options.sample(model, source, asked, seed, 3, text_of)
        assume(margin > SAFE)
        (found,), _ = decoded(model, [source], [task(options, limit, prefix)])
        assert_same(found, expected, options.length_penalty)
        seen.update(h.finish_reason for h in found)
        seen.update(searches=1, **dict.fromkeys([*drawn, *rule], 1))

    compare()
    assert_every_option_was_seen(seen)
    assert {"top_k", "top_p", "min_p", "typical_p"} <= set(seen)


def assert_every_option_was_seen(seen: Counter[str]) -> None:
    """A stress that assumed most of itself away would show little."""
    assert seen["searches"] > 60, seen
    assert {"repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram"} <= set(seen)
    assert {"suppress", "logit_bias", "min_new_tokens"} <= set(seen)
    assert min(seen["end"], seen["length"], seen["stop"]) > 10, seen


def every_sequence(limit: int, vocabulary: int) -> list[tuple[int, ...]]:
    """Every sequence that ends at its first end token, or is cut at ``limit``."""
    others = [t for t in range(vocabulary) if t != END]
    ended = [(*s, END) for n in range(limit) for s in itertools.product(others, repeat=n)]
    return [*ended, *itertools.product(others, repeat=limit)]


@pytest.mark.parametrize("early_stopping", [False, "never"])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_search_space_finds_the_best_that_rules_allow(seed: int, early_stopping: Any) -> None:
    model, source, vocabulary, limit = tiny_model(seed, vocab_size=5, end_bias=0.5), [4, 3, END], 5, 3
    rule: Given = {"repetition_penalty": 1.4, "no_repeat_ngram": 2, "suppress": [(3, 4)], "min_new_tokens": 1}
    options = DecodingOptions(beam_size=100, n_best=10, early_stopping=early_stopping, **rule)
    decoder = decode_options.Decoder(model, source, Options(**rule))
    scores = {}
    for sequence in every_sequence(limit, vocabulary):
        scores[sequence] = sum(decoder.log_probs(sequence[:i])[token] for i, token in enumerate(sequence))
    best = sorted(scores, key=lambda s: -scores[s] / ((5 + len(s)) / 6) ** 0.6)[:10]
    (found,), _ = decoded(model, [source], [task(options, limit)])
    assert [h.tokens for h in found] == best
    assert [h.score for h in found] == pytest.approx([scores[s] for s in best], abs=1e-4)


def test_a_beam_as_wide_as_the_search_space_finds_the_best_that_hold_a_phrase() -> None:
    for seed in range(3):
        model, source, limit, phrase = tiny_model(seed, vocab_size=5, end_bias=0.5), [4, 3, END], 4, (3, 4)
        decoder = decode_options.Decoder(model, source, Options())
        scores = {}
        for sequence in every_sequence(limit, 5):
            if phrase in itertools.pairwise(sequence):
                scores[sequence] = sum(decoder.log_probs(sequence[:i])[token] for i, token in enumerate(sequence))
        best = sorted(scores, key=lambda s: -scores[s] / ((5 + len(s)) / 6) ** 0.6)[:10]
        options = DecodingOptions(beam_size=1000, n_best=10, include=[phrase])
        (found,), _ = decoded(model, [source], [task(options, limit)])
        assert [h.tokens for h in found] == best


@pytest.mark.parametrize("early_stopping", [False, "never"])
def test_a_beam_as_wide_as_the_search_space_finds_the_best_after_coverage(early_stopping: Any) -> None:
    """``early_stopping=False`` may end too soon in general; here nothing is finished before all is."""
    changed = 0
    for seed in range(3):
        model, source, limit = tiny_model(seed, vocab_size=5, end_bias=0.5), [4, 3, 4, END], 3
        decoder, ranks, plain = decode_options.Decoder(model, source, Options(coverage_penalty=2.0)), {}, {}
        for s in every_sequence(limit, 5):
            score = sum(decoder.log_probs(s[:i])[token] for i, token in enumerate(s))
            plain[s] = score / ((5 + len(s)) / 6) ** 0.6
            weights = cross_attention_weights(model, source, [START, *s[:-1]], 1).mean(0)
            ranks[s] = plain[s] + 2.0 * float(weights.sum(0).clamp(max=1.0).log().sum())
        best = sorted(ranks, key=lambda s: -ranks[s])[:10]
        options = DecodingOptions(beam_size=100, n_best=10, coverage_penalty=2.0, early_stopping=early_stopping)
        (found,), _ = decoded(model, [source], [task(options, limit)])
        assert [h.tokens for h in found] == best
        assert [h.normalized_score for h in found] == pytest.approx([ranks[s] for s in best], abs=1e-4)
        changed += best != sorted(plain, key=lambda s: -plain[s])[:10]
    assert changed == 3, "a penalty that changes no ranking shows little"


def test_what_must_appear_and_cannot_appears_as_far_as_it_can() -> None:
    options = DecodingOptions(beam_size=3, n_best=3, include=[(7, 8, 9), (5,)])
    (found,), _ = decoded(tiny_model(0), [[5, END]], [task(options, 3)])
    assert {h.finish_reason for h in found} == {"length"}
    assert (found[0].tokens == (7, 8, 9)) or (5 in found[0].tokens)
    (found,), _ = decoded(tiny_model(0), [[5, END]], [task(options, 4)])
    assert len(found) <= 3
    for hypothesis in found:
        assert {5} & set(hypothesis.tokens)
        assert (7, 8, 9) in zip(hypothesis.tokens, hypothesis.tokens[1:], hypothesis.tokens[2:], strict=False)


def test_a_phrase_that_is_asked_for_twice_appears_once() -> None:
    found = [
        decoded(tiny_model(2), [[5, END]], [task(DecodingOptions(beam_size=3, include=include), 8)])[0]
        for include in ([(7, 8)], [(7, 8), (7, 8)])
    ]
    assert found[0] == found[1]


def test_without_options_it_is_the_search_of_whole_batches() -> None:
    model, sources = tiny_model(3, end_bias=0.5), random_sources(3, 6)
    for beam_size in (1, 3):
        options = DecodingOptions(beam_size=beam_size, n_best=beam_size)
        found, _ = decoded(model, sources, [task(options, 20)] * 6)
        expected = decode.beam_batch(model, sources, beam_size, 0.6, 20, beam_size)
        assert [[h.tokens for h in hypotheses] for hypotheses in found] == [[h.tokens for h in e] for e in expected]


MIXED = [
    DecodingOptions(),
    DecodingOptions(beam_size=4, n_best=2),
    DecodingOptions(sampling=Sampling(seed=1, samples=3)),
    DecodingOptions(beam_size=4, beam_groups=2, diversity_penalty=0.7, repetition_penalty=1.3),
    DecodingOptions(alternatives=3),
    DecodingOptions(sampling=Sampling(seed=1, temperature=2.0, top_k=5), min_new_tokens=3),
    DecodingOptions(beam_size=2, stop=["g", "hi"]),
    DecodingOptions(min_new_tokens=9),
]


def test_texts_with_options_of_their_own_share_a_run_and_leave_it() -> None:
    model, sources = tiny_model(5, end_bias=0.5), random_sources(5, len(MIXED))
    tasks = [task(options, 12 + i) for i, options in enumerate(MIXED)]
    together, engine = decoded(model, sources, tasks)
    assert engine.runs[0].kept, "no text left before the others"
    for source, own, found in zip(sources, tasks, together, strict=True):
        (alone,), _ = decoded(model, [source], [own])
        assert [h.tokens for h in found] == [h.tokens for h in alone]
        for one, other in zip(found, alone, strict=True):
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-4)


def test_a_sample_is_the_same_in_every_batch() -> None:
    model, sources = tiny_model(7), random_sources(7, 5)
    options = DecodingOptions(sampling=Sampling(seed=11, samples=2))
    together, _ = decoded(model, sources, [task(options, 10)] * 5)
    backwards, _ = decoded(model, sources[::-1], [task(options, 10)] * 5)
    assert [[h.tokens for h in found] for found in together] == [[h.tokens for h in found] for found in backwards[::-1]]
    assert len({found[0].tokens for found in together}) > 1


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(suppress=[[t] for t in range(VOCABULARY)]),
        DecodingOptions(suppress=[[t] for t in range(VOCABULARY)], beam_size=3),
        DecodingOptions(suppress=[[t] for t in range(VOCABULARY)], alternatives=2),
        DecodingOptions(suppress=[[t] for t in range(VOCABULARY)], sampling=Sampling(seed=0)),
    ],
    ids=["greedy", "beams", "alternatives", "sampling"],
)
def test_rules_that_forbid_everything_are_refused(options: DecodingOptions) -> None:
    with pytest.raises(
        InputError,
        match="text 0: the options leave no token that may follow after 0 new ones: loosen suppress, no_repeat",
    ):
        decoded(tiny_model(0), [[5, END]], [task(options, 5)])


def test_fewer_possible_tokens_than_beams_are_fewer_beams() -> None:
    options = DecodingOptions(beam_size=4, n_best=4, suppress=[[t] for t in range(VOCABULARY) if t not in (END, 7)])
    (found,), _ = decoded(tiny_model(0, end_bias=1.0), [[5, END]], [task(options, 3)])
    assert {h.tokens for h in found} <= {(END,), (7, END), (7, 7, END), (7, 7, 7)}
    alternatives = DecodingOptions(alternatives=4, suppress=options.suppress)
    (found,), _ = decoded(tiny_model(0), [[5, END]], [task(alternatives, 3)])
    assert {h.tokens[0] for h in found} == {END, 7}


@pytest.mark.parametrize(
    "options",
    [DecodingOptions(alternatives=2), DecodingOptions(beam_size=2, n_best=2)],
    ids=["alternatives", "beams"],
)
def test_an_interrupted_search_ends_as_it_stands(options: DecodingOptions) -> None:
    search = BeamRequest(task(options, 9))
    best = Candidates(np.log(np.array([[0.5, 0.25, 0.125, 0.0625]] * 2, np.float32)), np.array([[7, 8, 9, END]] * 2))
    search.advance(best, None)
    assert {live.tokens for live in search.live} == {(7,), (8,)}
    search.interrupt("cancelled")
    assert [(h.tokens, h.finish_reason) for h in search.results()] == [((7,), "cancelled"), ((8,), "cancelled")]
    assert search.live == []


def test_a_common_prefix() -> None:
    assert common_prefix([(1, 2, 3), (1, 2, 4), (1, 2)]) == (1, 2)
    assert common_prefix([(1, 2), (2, 2)]) == ()
    assert common_prefix([(4, 5, 6)]) == (4, 5, 6)
    assert common_prefix([(5, 1), (4, 9), (5, 1, 2)]) == ()


def test_agreed_tokens_grow_and_are_never_taken_back() -> None:
    for seed in range(8):
        model, (source,) = tiny_model(seed, end_bias=0.5), random_sources(seed, 1)
        engine, own = TorchEngine(model), task(DecodingOptions(beam_size=3), 15)
        request = BeamRequest(own)
        ids, mask = decode.right_pad([source], model.config.pad_id)
        run = engine.start(engine.encode_source(ids.numpy(), mask.numpy()), 1, 3, 15, own.width)
        search, before = search_requests(run, np.array([[START]]), [request], 3), ()
        for _ in search:
            assert request.agreed()[: len(before)] == before
            before = request.agreed()
        assert request.results()[0].tokens == before
