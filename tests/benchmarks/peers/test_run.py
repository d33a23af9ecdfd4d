"""Which cells are measured, in which order, and what happens to one that fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgewise.benchmarks.peers import run
from edgewise.benchmarks.peers.__main__ import main
from edgewise.benchmarks.peers.catalogue import systems_of
from edgewise.benchmarks.peers.cell import Answer
from edgewise.benchmarks.peers.floors import Ceilings
from edgewise.benchmarks.peers.places import Places
from edgewise.benchmarks.peers.results import Setting
from edgewise.benchmarks.peers.systems import OURS, SYSTEMS, System
from edgewise.benchmarks.peers.workloads import WORKLOADS
from edgewise.errors import EngineError, InputError

from .test_results import answer


def test_a_pattern_chooses_cells_by_name() -> None:
    chosen = [str(cell) for cell in run.cells(["s1/t1/b1/k4/ctranslate2-*", "s1/t2/b1/k4/edgewise-int8"])]
    assert chosen == [
        "s1/t1/b1/k4/ctranslate2-int8",
        "s1/t1/b1/k4/ctranslate2-int8-avx512",
        "s1/t2/b1/k4/edgewise-int8",
    ]


def test_everything_is_each_setting_with_each_system_but_the_extra_ones() -> None:
    plain = {name: [s for s in systems_of(name).values() if not s.extra] for name in WORKLOADS}
    settings = {"s1": 2 * 2 * 2, "s2": 2 * 2 * 1, "s3": 2, "s4": 2 * 2 * 1}
    assert len(run.cells(["*"])) == sum(len(plain[name]) * count for name, count in settings.items())
    assert "edgewise-fp32" not in {cell.system for cell in run.cells(["s1/t1/*"])}


def test_an_extra_system_is_measured_when_named() -> None:
    assert [cell.system for cell in run.cells(["s1/t1/b1/k1/edgewise-fp32"])] == ["edgewise-fp32"]


def test_a_pattern_without_cells_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        InputError, match=r"no cell is called 's9/\*', expected a pattern of names such as s1/t1/b1/k1/"
    ):
        run.cells(["s1/*", "s9/*"])
    assert main(["run", "s9/*"]) == 1
    assert "no cell is called" in capsys.readouterr().err


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, places: Places) -> list[tuple[str, bool]]:
    """Instead of processes: what was asked of which system, in order. ``ctranslate2-int8`` fails."""
    asked: list[tuple[str, bool]] = []

    def run_cell(places: Places, system: System, setting: Setting, **more: Any) -> Answer:
        asked.append((system.name, more["whole"]))
        if system.name == "ctranslate2-int8":
            raise EngineError("it said no")
        return answer(1.0, 2.0, outputs=[[5, 6], [7]] if more["whole"] else None)

    monkeypatch.setattr(run, "run_cell", run_cell)
    monkeypatch.setattr(run, "least_works", lambda places, results: [])
    monkeypatch.setattr(
        run, "ceilings", lambda threads: Ceilings(threads=threads, bandwidth=[[1, 1]], int8=1, float32=1)
    )
    for name in {system.model for system in SYSTEMS.values()} - {"openvino-int8"}:
        places.file("s1", name).mkdir(parents=True)
    places.file("s1", "reference.json").write_text(json.dumps({"1": [[5, 6], [8]]}))
    return asked


def test_rounds_go_forwards_and_backwards(asked: list[tuple[str, bool]], places: Places) -> None:
    chosen = run.cells([f"s1/t1/b1/k1/{name}" for name in (OURS, "transformers-fp32")])
    *earlier, found = run.measure(places, chosen, 3, 2, lambda what: None)
    assert [one["threads"] for one in found["ceilings"]] == [1]
    assert [sum(len(one["answers"]) for one in early["results"]) for early in earlier] == [1, 2, 3, 4, 5, 6]
    assert [name for name, _ in asked] == [
        OURS,
        "transformers-fp32",
        "transformers-fp32",
        OURS,
        OURS,
        "transformers-fp32",
    ]
    assert [whole for _, whole in asked] == [True, True, False, False, False, False]
    assert [len(result["answers"]) for result in found["results"]] == [3, 3]
    assert [result["quality"] for result in found["results"]] == [{"agree": 0.5}, {"agree": 0.5}]
    assert not any(one["outputs"] for result in found["results"] for one in result["answers"])


def test_what_fails_or_is_missing_is_told_and_not_tried_again(asked: list[tuple[str, bool]], places: Places) -> None:
    chosen = run.cells([f"s1/t1/b1/k1/{name}" for name in ("ctranslate2-int8", "optimum-intel-int8", OURS)])
    *_, found = run.measure(places, chosen, 2, 2, lambda what: None)
    assert [name for name, _ in asked] == ["ctranslate2-int8", OURS, OURS]
    failures = [result["failure"] for result in found["results"]]
    assert failures[0] == "it said no"
    assert failures[1].endswith("is missing, expected what optimum-intel-int8 reads: run `make peers`")
    assert failures[2] is None


def test_a_run_that_was_stopped_goes_on_where_it_was(asked: list[tuple[str, bool]], places: Places) -> None:
    chosen = run.cells([f"s1/t1/b1/k1/{name}" for name in (OURS, "transformers-fp32")])
    first, *_ = run.measure(places, chosen, 2, 2, lambda what: None)
    asked.clear()
    *_, found = run.measure(places, chosen[1:], 2, 2, lambda what: None, json.loads(json.dumps(first)))
    assert [name for name, _ in asked] == ["transformers-fp32"] * 2
    assert {result["cell"]["system"]: len(result["answers"]) for result in found["results"]} == {
        "transformers-fp32": 2,
        OURS: 1,  # not asked for again, and not forgotten
    }


def test_what_failed_is_tried_again_by_the_next_run(asked: list[tuple[str, bool]], places: Places) -> None:
    chosen = run.cells(["s1/t1/b1/k1/ctranslate2-int8"])
    *_, found = run.measure(places, chosen, 1, 2, lambda what: None)
    *_, again = run.measure(places, chosen, 1, 2, lambda what: None, found)
    assert len(asked) == 2
    assert again["results"][0]["failure"] == "it said no"


def test_an_earlier_run_of_other_passes_is_refused(asked: list[tuple[str, bool]], places: Places) -> None:
    chosen = run.cells([f"s1/t1/b1/k1/{OURS}"])
    *_, found = run.measure(places, chosen, 1, 2, lambda what: None)
    with pytest.raises(InputError, match=r"the earlier run has 2 passes a process on .*, expected 3 on"):
        next(run.measure(places, chosen, 1, 3, print, found))


def test_s2_without_the_data_set_is_refused_before_anything_runs(asked: list[tuple[str, bool]], places: Places) -> None:
    with pytest.raises(InputError, match="set MULTI30K"):
        next(run.measure(places, run.cells(["s?/t1/b1/*"]), 1, 1, print))
    assert not asked


@pytest.mark.parametrize("option", ["--rounds", "--repeats"])
def test_nothing_is_not_measured(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "s1/*", option, "0"])
    assert f"argument {option}: '0' is no number of at least 1" in capsys.readouterr().err


def test_the_machine_is_described() -> None:
    described = run.machine()
    assert described["processor"]
    assert described["processors"] >= 1
    assert set(described["features"]) <= set(run.FLAGS)
