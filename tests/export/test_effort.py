"""A large network is asked less, a small one everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise.export import cases, effort
from edgewise.export.cases import BEAM_SIZE, record_cases
from edgewise.export.effort import Effort, ordinary
from edgewise.export.probes import LONGEST, Probe, probes
from edgewise.models.checkpoint import load_checkpoint
from edgewise.runtime.tokenizer import Tokenizer

from ..tiny_checkpoint import write_checkpoint

TEXTS = [Probe(name=f"text-{i}", text="a") for i in range(40)]
SWEEPS = [Probe(name=f"vocabulary-{i}", text="a", short=True) for i in range(100)]
LONG = Probe(name=LONGEST, text="a")


def test_the_cost_is_that_of_reading_every_prefix() -> None:
    """Counted one by one: at step ``i`` every row reads ``length + i`` tokens."""
    weights, beams, length, steps = 7, 5, 20, 11
    by_hand = sum(weights * (1 + beams) * (length + i) for i in range(steps))
    cost = Effort(weights=weights, beams=beams).cost(length, steps)
    assert cost == pytest.approx(by_hand, rel=0.03)
    assert cost > by_hand


def test_the_shipped_sizes_are_asked_everything() -> None:
    small = Effort(weights=5_000_000, beams=BEAM_SIZE)
    assert small.room(254) == 254
    assert small.steps([30] * 45) == effort.MOST_STEPS
    assert small.kept([*TEXTS, LONG, *SWEEPS], 254) == [*TEXTS, LONG, *SWEEPS]


def test_the_cost_with_a_cache_is_that_of_every_token_read() -> None:
    weights, beams, length, steps = 7, 5, 20, 11
    greedy, one_pass = length + steps - 1, length + steps - 1
    by_beams = length + beams * (steps - 1)
    cost = Effort(weights=weights, beams=beams, cached=True).cost(length, steps)
    assert cost == pytest.approx(weights * (greedy + one_pass + by_beams), rel=0.06)


@pytest.mark.parametrize("cached", [False, True])
def test_a_large_network_stays_within_the_effort(cached: bool) -> None:
    large = Effort(weights=135_000_000, beams=BEAM_SIZE, cached=cached)
    room, steps = large.room(8190), large.steps([30] * 45)
    kept = large.kept([*TEXTS, LONG, *SWEEPS], 256)
    sweeps = [probe for probe in kept if probe.short]
    assert 256 < room < 8190
    assert effort.FEWEST_STEPS <= steps < effort.MOST_STEPS
    assert 0 < len(sweeps) < len(SWEEPS)
    assert [probe for probe in kept if not probe.short] == [*TEXTS, LONG]
    total = 45 * large.cost(30, steps) + large.cost(room, effort.FEWEST_STEPS) + len(sweeps) * large.cost(256, 2)
    assert total <= large.most * 1.1


@pytest.mark.parametrize("cached", [False, True])
def test_a_huge_network_is_asked_the_least(cached: bool) -> None:
    huge = Effort(weights=10**12, beams=BEAM_SIZE, cached=cached)
    assert huge.room(4096) == effort.SHORTEST_ROOM
    assert huge.steps([30] * 45) == effort.FEWEST_STEPS
    assert huge.kept(SWEEPS, 256) == SWEEPS[:1]


def test_ordinary_texts_are_neither_short_nor_the_longest() -> None:
    assert ordinary([*TEXTS, LONG, *SWEEPS]) == TEXTS


def test_cases_follow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "lm", "generate", max_positions=96))
    codec = Tokenizer.open(checkpoint.tokenizer_file)
    weights = sum(p.numel() for p in checkpoint.model.parameters())
    monkeypatch.setattr(effort, "EFFORT", 1.0)
    monkeypatch.setattr(effort, "CACHED_EFFORT", 2 * weights * 40 * (3 * 20 + (2 + BEAM_SIZE) * 6))
    found = {case.name: case for case in record_cases(checkpoint, "generate", codec, 96).cases}
    lengths = {name: case.max_new_tokens for name, case in found.items()}
    assert lengths["caption-00"] in (2, 4, 8)
    assert lengths["longest"] == 2
    assert len(found["longest"].input_ids) > 60
    assert sum(name.startswith("vocabulary-") for name in found) >= 1


def test_with_a_cache_the_reference_answers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "lm", "generate", max_positions=96))
    codec = Tokenizer.open(checkpoint.tokenizer_file)
    kept = ("empty", "caption-0", "digits", "vocabulary-000")
    few = [probe for probe in probes(codec, 94) if probe.name.startswith(kept)]
    monkeypatch.setattr(cases, "probes", lambda codec, room: few)
    naive = record_cases(checkpoint, "generate", codec, 96).cases
    monkeypatch.setattr(effort, "EFFORT", 1.0)
    for one, other in zip(record_cases(checkpoint, "generate", codec, 96).cases, naive, strict=True):
        assert one.greedy is not None and one.beam is not None
        assert other.greedy is not None and other.beam is not None
        assert (one.name, one.greedy.tokens, one.beam.tokens) == (other.name, other.greedy.tokens, other.beam.tokens)
        assert one.greedy.text == other.greedy.text
        assert one.beam.margin == pytest.approx(other.beam.margin, abs=1e-4)
        assert one.beam.score == pytest.approx(other.beam.score, abs=1e-4)
        for step, naive_step in zip(one.greedy.steps, other.greedy.steps, strict=True):
            assert step.top_ids == naive_step.top_ids
            assert step.logits == pytest.approx(naive_step.logits, abs=1e-4)
            assert step.folds == pytest.approx(naive_step.folds, abs=1e-3)
