"""The command line on real bundles, from export to translation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgewise import cli
from edgewise.errors import MissingExtraError

from .bundles import Damaged, tiny_bundle
from .tiny_checkpoint import write_checkpoint


@pytest.fixture
def bundle() -> Path:
    return tiny_bundle("translate")


def test_verify_replays_every_variant(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(bundle), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count(": ok, ") == 4
    assert "repeated-word" in out


def test_verify_json_of_one_variant(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(bundle), "--target", "cpu", "--precision", "int8", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is True
    assert [(v["target"], v["precision"]) for v in data["variants"]] == [("cpu", "int8")]
    assert len(data["variants"][0]["cases"]) > 10


def test_speculating_prints_the_same_and_what_it_brought(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", str(bundle), "A man, a man, a man.", "--json", "--beam-size", "1", "--threads", "1"]
    assert cli.main(asked) == 0
    plain = json.loads(capsys.readouterr().out)
    assert cli.main([*asked, "--speculate", "7"]) == 0
    found = json.loads(capsys.readouterr().out)
    counts = found.pop("speculation")
    assert counts["passes"] + counts["accepted"] == len(found["tokens"])
    assert counts["accepted"] <= counts["proposed"]
    assert set(found["seconds"]) == {"first_token", "total", "batch"}
    del plain["seconds"], found["seconds"]
    assert found == plain


def test_verify_fails_with_1_on_a_tampered_bundle(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Damaged(bundle, tmp_path / "bundle")
    damaged.pretend("cpu-int8", "fp32")
    assert cli.main(["verify", str(damaged.path), "--target", "cpu", "--precision", "fp32"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_changed_file_is_refused_unless_hashes_are_skipped(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Damaged(bundle, tmp_path / "bundle")
    with (damaged.path / "LICENSE").open("a") as file:
        file.write("!")
    assert cli.main(["run", str(damaged.path), "A man."]) == 1
    assert "LICENSE" in capsys.readouterr().err
    (damaged.path / "LICENSE").write_bytes((bundle / "LICENSE").read_bytes().swapcase())
    assert cli.main(["inspect", str(damaged.path)]) == 1
    assert "LICENSE has SHA-256" in capsys.readouterr().err
    assert cli.main(["run", str(damaged.path), "A man.", "--skip-hashes"]) == 0


def test_a_missing_engine_is_said_and_the_others_verified(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise MissingExtraError("pip install 'edgewise[openvino]'")

    monkeypatch.setattr("edgewise.runtime.engines.openvino._library", missing)
    assert cli.main(["verify", str(bundle), "--precision", "fp32", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["not_verified"] == {"openvino-fp32": "pip install 'edgewise[openvino]'"}
    assert "openvino-fp32 is not verified" in captured.err
    assert cli.main(["verify", str(bundle), "--target", "openvino"]) == 1
    assert "pip install 'edgewise[openvino]'" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["openvino:GPU", "openvino:NPU", "cuda", "qnn"])
def test_targets_that_are_not_here_are_typed_errors(
    bundle: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["run", str(bundle), "A man."], ["verify", str(bundle)], ["bench", str(bundle)]):
        assert cli.main([*command, "--target", target]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("edgewise: error: ")


def test_a_precision_that_is_not_in_the_bundle_names_those_that_are(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["run", str(bundle), "A man."], ["verify", str(bundle)]):
        assert cli.main([*command, "--precision", "int8-fast"]) == 1
        assert "cpu-fp32, cpu-int8" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["translate", "generate", "fill_mask", "classify"])
def test_inspect_says_what_a_bundle_holds(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tiny_bundle(task))]) == 0
    out = capsys.readouterr().out
    for said in (
        task,
        "variant cpu-int8",
        "float32",
        "int8",
        "checkpoint_sha256",
        "licence of the weights",
        "For tests.",
    ):
        assert said in out
    assert cli.main(["inspect", str(tiny_bundle(task)), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {v["name"] for v in data["variants"]} == {"cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"}
    assert {"matrix", "shape", "kernel"} <= set(data["variants"][0]["kernels"][0])
    assert data["licence"]["notice"].strip() == "For tests."


@pytest.mark.parametrize("task", ["translate", "classify"])
def test_bench_json(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", str(tiny_bundle(task)), "--repeats", "1", "--texts", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["model_bytes"] > 1000
    assert data["rows"]


def test_run_does_the_task_of_the_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"translate": "A man.", "generate": "A man", "fill_mask": "A <mask> man.", "classify": "A man."}
    for task, text in texts.items():
        for target in ("cpu", "openvino"):
            assert cli.main(["run", str(tiny_bundle(task)), text, "--target", target]) == 0
            assert capsys.readouterr().out.count("\n") == 1


def test_export_with_its_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_checkpoint(tmp_path / "tiny", "translate", max_positions=48)
    texts = tmp_path / "texts"
    texts.write_text("A man is riding a bicycle.\nTwo dogs run.\n")
    arguments = ["export", str(source), "-o", str(tmp_path / "bundle"), "--target", "cpu", "--precision", "int8"]
    assert cli.main([*arguments, "--eval", str(texts), str(texts), "--max-drop", "100", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["max_drop"] == 100
    assert (tmp_path / "bundle" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["missing", "-o", "new"], "expected a readable JSON file"),
        (["tiny", "-o", "tiny"], "is no bundle"),
        (["tiny", "-o", "new", "--eval", "missing.en", "missing.de"], "missing.en is no file"),
    ],
    ids=["no-checkpoint", "output-is-something-else", "no-evaluation"],
)
def test_export_errors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    write_checkpoint(tmp_path / "tiny", "classify" if "--eval" not in change else "translate", max_positions=48)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *change, "--target", "cpu", "--precision", "fp32"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert not (tmp_path / "new").exists()


def test_a_negative_drop_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["export", "tiny", "-o", "new", "--max-drop", "-1"])
    assert "--max-drop (-1.0) must be at least 0" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly(bundle: Path) -> None:
    script = f"{sys.executable} -m edgewise inspect {bundle} --json | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {script}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")
