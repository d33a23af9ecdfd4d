"""The oracle against enumeration and by hand; cached PyTorch generation against the oracle."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from edgewise.models import cached, decode, generate
from edgewise.models.decode import Candidate, SentenceBeams
from edgewise.models.transformer import Transformer

from ..tiny import END, START, random_sources, tiny_model


def log_prob(model: Transformer, source: list[int], tokens: tuple[int, ...]) -> float:
    """Log-probability of ``tokens`` after ``source`` in one teacher-forced pass."""
    read, fed = torch.tensor([source]), torch.tensor([[START, *tokens[:-1]]])
    seen, everything = torch.ones_like(read, dtype=torch.bool), torch.ones_like(fed, dtype=torch.bool)
    cross = model.cross_key_value(model.encode(read, seen))
    hidden, _ = model.decode(fed, torch.arange(fed.shape[1])[None], everything, cross=cross, cross_mask=seen)
    logits = model.logits(hidden)[0].double()
    return float(logits.log_softmax(-1)[range(len(tokens)), list(tokens)].sum())


def every_sequence(vocab_size: int, longest: int) -> list[tuple[int, ...]]:
    """Every sequence that ends at its first end token, or is cut at ``longest``."""
    others = [t for t in range(vocab_size) if t != END]
    ended = [(*s, END) for n in range(longest) for s in itertools.product(others, repeat=n)]
    return [*ended, *itertools.product(others, repeat=longest)]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(4))
@torch.inference_mode()
def test_a_beam_as_wide_as_the_search_space_finds_what_enumeration_finds(seed: int, length_penalty: float) -> None:
    vocab_size, longest, source = 5, 3, [4, 3, END]
    model = tiny_model(seed, vocab_size=vocab_size, end_bias=0.5)
    scores = {s: log_prob(model, source, s) for s in every_sequence(vocab_size, longest)}
    best = sorted(scores, key=lambda s: -scores[s] / ((5 + len(s)) / 6) ** length_penalty)[:10]
    found = decode.beam(model, source, len(scores), length_penalty, longest, n_best=10)
    assert [h.tokens for h in found] == best
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(scores[hypothesis.tokens], abs=1e-5)
        assert hypothesis.normalized_score == pytest.approx(
            scores[hypothesis.tokens] / ((5 + len(hypothesis.tokens)) / 6) ** length_penalty, abs=1e-5
        )
        assert hypothesis.finish_reason == ("end" if hypothesis.tokens[-1] == END else "length")


@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder"])
@pytest.mark.parametrize("seed", range(10))
def test_greedy_is_a_beam_of_one_and_takes_the_most_probable_token_of_every_step(seed: int, architecture: str) -> None:
    model = tiny_model(seed, architecture)  # type: ignore[arg-type]
    source = [START, 5 + seed] if architecture == "decoder" else random_sources(seed, 1)[0]
    greedy = decode.greedy(model, source, 12)
    (beam,) = decode.beam(model, source, 1, 0.6, 12)
    assert (greedy.tokens, greedy.finish_reason) == (beam.tokens, beam.finish_reason)
    assert greedy.token_log_probs == pytest.approx(beam.token_log_probs, abs=1e-5)
    assert greedy.score == sum(greedy.token_log_probs)
    assert greedy.logits is not None
    assert greedy.logits.argmax(-1).tolist() == list(greedy.tokens)
    chosen = greedy.logits.log_softmax(-1)[range(len(greedy.tokens)), list(greedy.tokens)]
    assert chosen.tolist() == pytest.approx(greedy.token_log_probs)


def test_a_batch_decodes_each_sentence_as_if_alone() -> None:
    model, sources = tiny_model(3), random_sources(3, 9)
    limits = [3 + i for i in range(9)]
    together = decode.beam_batch(model, sources, 4, 0.6, limits, 4)
    assert len({len(h[0].tokens) for h in together}) > 1, "the lengths should vary, or this shows little"
    for source, limit, found in zip(sources, limits, together, strict=True):
        alone = decode.beam(model, source, 4, 0.6, limit, 4)
        assert [h.tokens for h in found] == [h.tokens for h in alone]
        for one, other in zip(found, alone, strict=True):
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-5)


def test_prompts_of_different_lengths_decode_together() -> None:
    model, prompts = tiny_model(1, "decoder"), [[START, 5], [START, 6, 7, 8], [START]]
    together = decode.beam_batch(model, prompts, 3, 0.6, 8)
    assert [h[0].tokens for h in together] == [decode.beam(model, p, 3, 0.6, 8)[0].tokens for p in prompts]


def advance(beams: SentenceBeams, *rows: tuple[int, int, float]) -> list[int]:
    """A step from candidates given as beam, token and total."""
    return beams.advance([Candidate(b, token, total - beams.live[b][2], total) for b, token, total in rows])


def test_an_end_token_finishes_within_the_first_ranks_only() -> None:
    beams = SentenceBeams(beam_size=2, length_penalty=0.0, max_new_tokens=9, end_id=END)
    assert advance(beams, (0, 7, -1.0), (0, 8, -1.5), (0, END, -1.6), (0, 9, -2.0), (0, 6, -3.0)) == [0, 0]
    assert beams.finished == []
    assert [tokens for tokens, _, _ in beams.live] == [(7,), (8,)]
    advance(beams, (1, END, -2.0), (0, 5, -2.1), (0, END, -2.2), (1, 4, -2.5), (0, 6, -3.0))
    assert [h.tokens for h in beams.finished] == [(8, END)]
    assert [tokens for tokens, _, _ in beams.live] == [(7, 5), (8, 4)]


def test_a_sentence_goes_on_until_no_live_beam_can_be_better() -> None:
    beams = SentenceBeams(beam_size=1, length_penalty=1.0, max_new_tokens=9, end_id=END)
    advance(beams, (0, END, -1.0), (0, 5, -1.1), (0, 6, -2.0))
    assert beams.done
    wide = SentenceBeams(beam_size=2, length_penalty=0.0, max_new_tokens=9, end_id=END)
    advance(wide, (0, END, -5.0), (0, 5, -5.0), (0, 6, -5.5), (0, 7, -6.0), (0, 8, -7.0))
    assert not wide.done, "one of two is finished"
    advance(wide, (0, 4, -5.1), (0, END, -5.4), (1, 4, -5.6), (1, 5, -6.0), (1, 6, -7.0))
    assert not wide.done, "a live beam stands at -5.1, better than the worst finished"
    advance(wide, (0, END, -5.4), (0, 4, -5.5), (1, 4, -5.6), (1, 5, -6.0), (1, 6, -7.0))
    assert wide.done
    assert [h.tokens for h in wide.results(2)] == [(END,), (5, END)], "of equals the one finished first is kept"


def test_at_the_limit_live_beams_are_finished_as_they_are() -> None:
    beams = SentenceBeams(beam_size=2, length_penalty=0.0, max_new_tokens=1, end_id=END)
    advance(beams, (0, 5, -1.0), (0, END, -2.0), (0, 6, -3.0), (0, 7, -4.0), (0, 8, -5.0))
    assert beams.done
    assert [(h.tokens, h.finish_reason) for h in beams.results(2)] == [((5,), "length"), ((END,), "end")]


def test_equal_scores_go_to_the_lower_beam_then_the_lower_id() -> None:
    beams = SentenceBeams(beam_size=2, length_penalty=0.0, max_new_tokens=9, end_id=END)
    beams.live = [((4,), (-1.0,), -1.0), ((5,), (-1.0,), -1.0)]
    best = decode.best_candidates(beams, torch.full((2, 6), math.log(1 / 6)))
    assert [(c.beam, c.token) for c in best] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]


def test_the_decision_gap_is_the_closest_choice() -> None:
    model = tiny_model(0)
    found = decode.greedy(model, random_sources(0, 1)[0], 12)
    assert found.logits is not None
    top = found.logits.log_softmax(-1).topk(2).values
    assert found.decision_gap == pytest.approx(float((top[:, 0] - top[:, 1]).min()))
    beams = SentenceBeams(beam_size=2, length_penalty=0.0, max_new_tokens=9, end_id=END)
    advance(beams, (0, 7, -1.0), (0, 8, -1.5), (0, 9, -1.6), (0, END, -1.61), (0, 6, -3.0))
    assert beams.gap == pytest.approx(0.1), "8 got in and 9 did not; the end token was far from the first ranks"


@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder"])
@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_cached_generation_is_the_oracle(seed: int, beam_size: int, architecture: str) -> None:
    model = tiny_model(seed, architecture)  # type: ignore[arg-type]
    sources = random_sources(seed, 5) if architecture != "decoder" else [[START, 4 + i] for i in range(5)]
    limits, penalty = [20, 3, 20, 1, 7], (0.0, 0.6, 1.0)[seed % 3]
    expected = decode.beam_batch(model, sources, beam_size, penalty, limits, beam_size)
    found = [generate.beam(model, sources, beam_size, penalty, limits, beam_size)]
    if beam_size == 1:
        found.append([[h] for h in generate.greedy(model, sources, limits, penalty)])
    for decoder in found:
        for one, other in zip(itertools.chain(*decoder), itertools.chain(*expected), strict=True):
            assert (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-5)
            assert one.normalized_score == pytest.approx(other.normalized_score, abs=1e-4)


@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder"])
@pytest.mark.parametrize("seed", range(6))
def test_what_a_cache_finds_has_the_oracles_logits_and_gaps(seed: int, architecture: str) -> None:
    model = tiny_model(seed, architecture)  # type: ignore[arg-type]
    source = [START, 4 + seed] if architecture == "decoder" else random_sources(seed, 1)[0]
    one, other = cached.greedy(model, source, 20), decode.greedy(model, source, 20)
    assert (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)
    assert one.logits is not None and other.logits is not None
    torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-5)
    assert one.score == sum(one.token_log_probs) == pytest.approx(other.score, abs=1e-5)
    assert one.normalized_score == pytest.approx(other.normalized_score, abs=1e-5)
    assert one.decision_gap == pytest.approx(other.decision_gap, abs=1e-5)
    (by_beams,) = decode.beam(model, source, 4, 0.6, 20)
    found = cached.beam(model, source, 4, 0.6, 20)
    assert found.tokens == by_beams.tokens
    assert found.decision_gap == pytest.approx(by_beams.decision_gap, abs=1e-5)


def test_where_the_cache_went_another_way_the_oracle_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = tiny_model(0), random_sources(0, 1)[0]
    expected = decode.greedy(model, source, 12)
    astray = generate.greedy(model, [source], 12)[0]
    astray = replace(astray, tokens=(*astray.tokens[:-1], astray.tokens[-1] ^ 1))
    monkeypatch.setattr(generate, "greedy", lambda *_: [astray])
    found = cached.greedy(model, source, 12)
    assert (found.tokens, found.token_log_probs) == (expected.tokens, expected.token_log_probs)


@pytest.mark.parametrize("search", [generate.greedy, lambda m, s, n: generate.beam(m, s, 2, 0.6, n)])
def test_cached_generation_refuses_prompts_of_different_lengths(search) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"must be equally long; these are \[1, 2\]"):
        search(tiny_model(0, "decoder"), [[START], [START, 5]], 4)
