"""A large network is asked less, a small one everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise.export import effort
from edgewise.export.cases import BEAM_SIZE, record_cases
from edgewise.export.effort import Effort, ordinary
from edgewise.export.probes import LONGEST, Probe
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


def test_a_large_network_stays_within_the_effort() -> None:
    large = Effort(weights=135_000_000, beams=BEAM_SIZE)
    room, steps = large.room(8190), large.steps([30] * 45)
    kept = large.kept([*TEXTS, LONG, *SWEEPS], 256)
    sweeps = [probe for probe in kept if probe.short]
    assert 256 < room < 8190
    assert effort.FEWEST_STEPS <= steps < effort.MOST_STEPS
    assert 0 < len(sweeps) < len(SWEEPS)
    assert [probe for probe in kept if not probe.short] == [*TEXTS, LONG]
    total = 45 * large.cost(30, steps) + large.cost(room, effort.FEWEST_STEPS) + len(sweeps) * large.cost(256, 2)
    assert total <= effort.EFFORT * 1.1


def test_a_huge_network_is_asked_the_least() -> None:
    huge = Effort(weights=10**12, beams=BEAM_SIZE)
    assert huge.room(4096) == effort.SHORTEST_ROOM
    assert huge.steps([30] * 45) == effort.FEWEST_STEPS
    assert huge.kept(SWEEPS, 256) == SWEEPS[:1]


def test_ordinary_texts_are_neither_short_nor_the_longest() -> None:
    assert ordinary([*TEXTS, LONG, *SWEEPS]) == TEXTS


def test_cases_follow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "lm", "generate", max_positions=96))
    codec = Tokenizer.open(checkpoint.tokenizer_file)
    weights = sum(p.numel() for p in checkpoint.model.parameters())
    monkeypatch.setattr(effort, "EFFORT", 2 * weights * (1 + BEAM_SIZE) * 40 * 8 * 20)
    cases = {case.name: case for case in record_cases(checkpoint, "generate", codec, 96).cases}
    lengths = {name: case.max_new_tokens for name, case in cases.items()}
    assert lengths["caption-00"] in (2, 4, 8)
    assert lengths["longest"] == 2
    assert len(cases["longest"].input_ids) > 60
    assert sum(name.startswith("vocabulary-") for name in cases) >= 1
