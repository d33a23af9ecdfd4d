"""What is made once, and what is said where it cannot be made."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgewise.benchmarks.peers import processes
from edgewise.benchmarks.peers.catalogue import every_system
from edgewise.benchmarks.peers.check import NEAR, compare
from edgewise.benchmarks.peers.places import ROOT, Places, folder_bytes, this_package
from edgewise.benchmarks.peers.prepare import Preparation, captions
from edgewise.benchmarks.peers.processes import run_cell
from edgewise.benchmarks.peers.results import Setting
from edgewise.benchmarks.peers.systems import ENVIRONMENTS, OURS, OWN_ENVIRONMENT, SYSTEMS
from edgewise.benchmarks.peers.workloads import S1, WORKLOADS
from edgewise.errors import EngineError, ExportError, InputError, MissingExtraError, VerificationError
from edgewise.models.checkpoint import Checkpoint


@pytest.fixture
def empty(tmp_path: Path) -> Places:
    return Places(peers=tmp_path / "peers", multi30k=None)


def test_a_thing_is_made_once_and_whole_or_not_at_all(empty: Places) -> None:
    told: list[str] = []
    preparation = Preparation(empty, S1, told.append)

    def fails(path: Path) -> None:
        path.mkdir()
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        preparation._once("thing", fails)
    assert not empty.file("s1", "thing").exists()
    preparation._once("thing", lambda path: path.mkdir())  # over what the failure left
    preparation._once("thing", fails)
    assert empty.file("s1", "thing").is_dir()
    assert told == [f"make {empty.file('s1', 'thing')}"] * 2


def test_sources_of_s1_are_the_same_every_time_and_end(empty: Places, small: Checkpoint) -> None:
    preparation = Preparation(empty, S1, print)
    preparation.checkpoint = small
    sources = preparation._sources()
    assert sources == preparation._sources()
    assert [len(source) for source in sources] == [32] * 8
    assert {source[-1] for source in sources} == {2}
    assert all(4 <= token < 400 for source in sources for token in source[:-1])


def test_the_reference_decodes_exactly_as_many_tokens(empty: Places, small: Checkpoint) -> None:
    preparation = Preparation(empty, S1, print)
    preparation.checkpoint = small
    found = preparation._reference()
    assert found.keys() == {"1", "4"}
    assert {len(row) for rows in found.values() for row in rows} == {64}


def test_an_environment_that_is_not_there_is_named(empty: Places) -> None:
    with pytest.raises(MissingExtraError, match="a program of the environment optimum: run `make peers`"):
        empty.binary("optimum")
    assert empty.binary(OWN_ENVIRONMENT).is_file()


def test_a_converter_that_fails_is_quoted(empty: Places) -> None:
    program = empty.peers / "optimum" / "bin" / "optimum-cli"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(ExportError, match=r"optimum-cli of optimum ended with status 3, expected 0; .*\nno such model"):
        Preparation(empty, S1, print)._onnx(empty.peers / "out")


def test_s2_needs_the_data_set(empty: Places) -> None:
    with pytest.raises(InputError, match="workload s2 translates Multi30k's test_2016_flickr: set MULTI30K"):
        captions(empty, "en")


def test_a_cell_that_fails_ends_with_what_it_said(empty: Places) -> None:
    (empty.file("s1", "checkpoint")).mkdir(parents=True)
    (empty.file("s1", "checkpoint") / "config.json").write_text(json.dumps({"pad_id": 0, "start_id": 1, "end_id": 2}))
    empty.file("s1", "edgewise").mkdir()
    sources = empty.peers / "sources.json"
    sources.write_text("[[5, 2]]")
    setting = Setting(workload="s1", threads=1, batch=1, beam_size=1)
    with pytest.raises(EngineError, match=r"edgewise-int8 ended with status 1, expected 0: .*manifest.json"):
        run_cell(empty, SYSTEMS[OURS], setting, sources=sources, repeats=1, whole=True)


def test_a_cell_that_takes_too_long_is_given_up(empty: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TIME_LIMIT", 0.01)
    with pytest.raises(EngineError, match=r"x took more than 0.01 seconds for one cell: measure fewer sources"):
        processes._run("x", [sys.executable, "-c", "import time; time.sleep(60)"], {}, ".")


def test_another_environment_imports_this_package_and_needs_no_library_for_it() -> None:
    """``-S``: no site-packages, as in an environment that has nothing of ours."""
    code = "import sys, edgewise.benchmarks.peers.cell as cell; print(cell.__file__, 'numpy' in sys.modules)"
    with this_package() as path:
        done = subprocess.run(
            [sys.executable, "-S", "-P", "-c", code], env=os.environ | path, capture_output=True, text=True, check=True
        )
    file, numpy = done.stdout.split()
    assert Path(file).name == "cell.py"
    assert path["PYTHONPATH"] in file
    assert numpy == "False"


def test_only_the_files_that_a_system_opens_are_counted(tmp_path: Path) -> None:
    for name in ("encoder_model.onnx", "decoder_model.onnx", "decoder_model_merged.onnx", "config.json"):
        (tmp_path / name).write_bytes(b"x" * 10)
    assert folder_bytes(tmp_path, SYSTEMS["optimum-onnx-int8"]) == 20
    assert folder_bytes(tmp_path, SYSTEMS["transformers-fp32"]) == 40


SOURCES = [[5, 2], [6, 2], [7, 2]]


def test_equal_tokens_and_near_ties_pass_the_check() -> None:
    found = compare("x", SOURCES, [[1], [2], [9]], [[1], [2], [3]], lambda source: NEAR / 2)
    assert (found.equal, found.near_ties) == (2, 1)
    assert str(found) == "x: 2 of 3 sources as PyTorch, 1 near-ties"


def test_another_network_does_not_pass_it() -> None:
    with pytest.raises(VerificationError, match=r"x gave other tokens than PyTorch for sources \[2\], 1 of 3"):
        compare("x", SOURCES, [[1], [2], [9]], [[1], [2], [3]], lambda source: 1.0)


def test_every_environment_is_pinned_and_every_system_has_one() -> None:
    assert {system.environment for system in every_system()} == {OWN_ENVIRONMENT, *ENVIRONMENTS}
    own = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for environment in ENVIRONMENTS:
        lines = (ROOT / "benchmarks" / "peers" / "requirements" / f"{environment}.txt").read_text().splitlines()
        wanted = {one.name: one for one in map(Requirement, lines)}
        assert all(str(one.specifier).startswith("==") for one in wanted.values())
        for shared in {"torch", "onnxruntime", "openvino", "numpy"} & wanted.keys():
            assert wanted[shared].specifier.contains(own[shared]), shared  # the same engine on both sides


def test_every_adapter_is_a_file() -> None:
    for system in every_system():
        file = ROOT.joinpath("benchmarks", "peers", "adapters", *system.adapter.split("."))
        assert file.with_suffix(".py").is_file()


def test_timed_sources_are_spread_evenly() -> None:
    for workload in WORKLOADS.values():
        assert workload.timed.keys() == set(workload.batches)
        assert all(workload.sources % count == 0 for count in workload.timed.values())
