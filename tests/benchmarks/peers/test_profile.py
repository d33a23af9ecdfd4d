"""What a profile of ONNX Runtime is made into."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from edgewise.benchmarks.peers import __main__ as command
from edgewise.benchmarks.peers.places import Places
from edgewise.benchmarks.peers.processes import profile_cell
from edgewise.benchmarks.peers.profile import REQUESTS, Operators, Profile, operators_of
from edgewise.benchmarks.peers.results import Setting
from edgewise.benchmarks.peers.systems import OURS, SYSTEMS
from edgewise.runtime.load import EMBEDDED


def event(name: str, kind: str, microseconds: int, category: str = "Node") -> dict[str, object]:
    return {"cat": category, "name": name, "dur": microseconds, "args": {"op_name": kind}}


EVENTS = [
    event("a_kernel_time", "MatMul", 3000),
    event("b_kernel_time", "Add", 500),
    event("c_kernel_time", "MatMul", 2000),
    event("c_fence_before", "MatMul", 9),
    event("model_run", "", 9000, "Session"),
]


def test_operators_of_a_kind_are_added_up() -> None:
    assert operators_of(EVENTS) == [
        Operators(kind="MatMul", calls=2, seconds=0.005),
        Operators(kind="Add", calls=1, seconds=0.0005),
    ]


def test_a_table_is_of_one_request_and_has_what_is_outside() -> None:
    found = Profile(requests=2, seconds=0.01, operators=operators_of(EVENTS))
    lines = found.table("s1/t1").splitlines()
    assert lines[0] == "s1/t1"
    assert lines[2].split() == ["MatMul", "1", "2.500", "50.0%"]
    assert lines[4].split() == ["outside", "of", "operators", "2.250", "45.0%"]
    assert Profile.from_json(json.loads(json.dumps(asdict(found)))) == found


def test_a_translation_is_profiled(places: Places) -> None:
    """The shipped bundle, in a process of its own."""
    places.file("s2", "x").parent.mkdir(parents=True)
    places.file("s2", "edgewise").symlink_to(EMBEDDED)
    sources = places.file("s2", "sources.json")
    sources.write_text("[[5, 6, 2]]")
    setting = Setting(workload="s2", threads=1, batch=1, beam_size=5)
    found = profile_cell(places, SYSTEMS[OURS], setting, sources)
    assert found.requests == REQUESTS
    assert 0 < sum(one.seconds for one in found.operators) < found.seconds
    assert any("MatMul" in one.kind for one in found.operators)


def test_only_cells_of_edgewise_are_profiled(
    monkeypatch: pytest.MonkeyPatch, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path] = []

    def profiled(places: Places, system: object, setting: Setting, sources: Path) -> Profile:
        asked.append(sources)
        return Profile(requests=1, seconds=1.0, operators=[])

    monkeypatch.setattr(command, "profile_cell", profiled)
    assert command.main(["profile", "s4/t1/b32/k1/*"]) == 0
    assert [file.name for file in asked] == ["sources-32.json"] * 2
    said = capsys.readouterr().out
    assert "s4/t1/b32/k1/edgewise-int8" in said
    assert "s4/t1/b32/k1/edgewise-fp32" in said
    assert "ctranslate2" not in said
