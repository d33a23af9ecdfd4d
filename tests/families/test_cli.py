"""The command line on a folder of another library: export, run, inspect, verify, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgewise
from edgewise.cli import main

from ..bundles import record_few_cases
from .folders import bert_folder, change_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewise.pipeline.record_cases", record_few_cases)
        source = bert_folder(folder / "tiny-bert")
        status = main(["export", str(source), "-o", str(folder / "out"), "--target", "cpu", "--precision", "fp32"])
    assert status == 0
    return folder / "out"


def test_a_line_in_is_a_vector_out(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "two dogs play", "a man is riding"]) == 0
    lines = capsys.readouterr().out.splitlines()
    with edgewise.load(bundle) as session:
        expected = [e.vector for e in session.embed(["two dogs play", "a man is riding"])]
    assert [[float(x) for x in line.split(" ")] for line in lines] == [
        pytest.approx(v.tolist(), abs=1e-5) for v in expected
    ]


def test_as_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "a man " * 40, "--json", "--overflow", "truncate"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["truncated"] is True
    assert len(result["vector"]) == 32
    assert "text 1 is longer than the context and was cut" in said.err


def test_inspect_says_how_vectors_are_made(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "tiny-bert: embed" in text
    assert "vectors of 32 numbers: mean of the states, normalized" in text
    assert "recipe: BertModel, read from a Hugging Face folder" in text


def test_verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(bundle)]) == 0
    assert "tiny-bert cpu-fp32: ok" in capsys.readouterr().out


def test_decoding_options_are_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", str(bundle), "a man", "--beam-size", "2"])
    assert stopped.value.code == 2
    assert "--beam-size: a bundle made for embed does not decode" in capsys.readouterr().err


def test_an_unknown_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bert_folder(tmp_path / "other")
    change_json(folder / "config.json", architectures=["MambaForCausalLM"])
    assert main(["export", str(folder), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "architectures is ['MambaForCausalLM'], expected one of BertModel" in said
    assert "a table in a file of your own: edgewise export --family FILE, see docs/families.md" in said
    assert not (tmp_path / "out").exists()
