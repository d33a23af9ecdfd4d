"""What a measuring process does around an adapter."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from edgewise.benchmarks.peers import cell
from edgewise.benchmarks.peers.cell import Order, Tokens

SOURCES = [[5, 6, 2], [7, 2], [8, 9, 10, 2], [11, 2], [12, 13, 2]]


class Backwards:
    """Gives every source backwards, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tokens, int, int]] = []

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        self.asked.append((sources, beam_size, limit))
        return [source[-2::-1] for source in sources]

    def versions(self) -> dict[str, str]:
        return {"backwards": "1"}


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Backwards:
    """An adapter called ``backwards``."""
    opened = Backwards()
    module = types.ModuleType("backwards")
    module.open_model = lambda order: opened  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgewise.benchmarks.peers.adapters.backwards", module)
    return opened


def order(tmp_path: Path, **changes: object) -> Order:
    (tmp_path / "sources.json").write_text(json.dumps(SOURCES))
    plain: dict[str, object] = {
        "kind": "translate",
        "adapter": "backwards",
        "model": "",
        "sources": str(tmp_path / "sources.json"),
        "answer": str(tmp_path / "answer.json"),
        "threads": 1,
        "batch": 2,
        "beam_size": 3,
        "exact_tokens": None,
        "extra_tokens": 50,
        "timed": 5,
        "repeats": 2,
        "whole": True,
        "length_penalty": 1.0,
        "special_ids": {"pad": 0, "start": 1, "end": 2},
    }
    return Order(**{**plain, **changes})  # type: ignore[arg-type]


def test_requests_hold_sources_of_similar_length_the_shortest_first(tmp_path: Path) -> None:
    requests = cell.cut(SOURCES, order(tmp_path))
    assert [request.places for request in requests] == [[1, 3], [0, 4], [2]]
    assert [request.limit for request in requests] == [52, 53, 54]
    assert requests[1].sources == [[5, 6, 2], [12, 13, 2]]


def test_outputs_come_in_the_order_of_the_sources(system: Backwards, tmp_path: Path) -> None:
    answer = cell.measure(order(tmp_path))
    assert answer.outputs == [[6, 5], [7], [10, 9, 8], [11], [13, 12]]
    assert (answer.sentences, answer.tokens, len(answer.seconds)) == (5, 9, 2)
    assert min(answer.seconds) > 0
    assert 0 <= answer.cpu_seconds < 1
    assert answer.peak_memory_bytes is not None
    assert {beam for _, beam, _ in system.asked} == {3}


@pytest.mark.parametrize("whole", [True, False], ids=["after the whole", "after a warm-up"])
def test_every_timed_request_has_been_sent_once_before(system: Backwards, tmp_path: Path, whole: bool) -> None:
    answer = cell.measure(order(tmp_path, whole=whole, repeats=2))
    assert len(system.asked) == 1 + 3 * 3  # the first output, one pass that is not timed, two that are
    assert len(answer.seconds) == 2
    assert (answer.outputs is not None) is whole


def test_a_timed_pass_may_take_sources_of_every_length(system: Backwards, tmp_path: Path) -> None:
    answer = cell.measure(order(tmp_path, batch=1, timed=2, whole=False, repeats=1))
    assert answer.sentences == 3  # every second one, the shortest and the longest among them
    assert [len(sources[0]) for sources, _, _ in system.asked[-3:]] == [2, 3, 4]


def test_a_system_that_stops_early_is_not_timed(system: Backwards, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"backwards gave \[1\] tokens a source, expected exactly 64"):
        cell.measure(order(tmp_path, exact_tokens=64))


def test_a_process_writes_its_answer(system: Backwards, tmp_path: Path) -> None:
    told = order(tmp_path)
    cell.main([json.dumps(vars(told))])
    answer = cell.Answer(**json.loads(Path(told.answer).read_text()))
    assert answer.outputs is not None
    assert answer.versions["backwards"] == "1"


def test_a_row_ends_before_its_first_end_token() -> None:
    assert cell.until_end([5, 2, 6, 2], 2) == [5]
    assert cell.until_end([5, 6], 2) == [5, 6]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")
def test_the_age_of_a_process_is_known() -> None:
    age = cell.seconds_since_birth()
    assert age is not None
    assert 0 < age < 24 * 3600
