"""``edgewise export --exporter optimum``: what the process is asked and told, and for real where there is an optimum.

That needs ``EDGEWISE_OPTIMUM_PYTHON``, the Python of an environment with optimum-onnx; without it those tests are
skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewise.cli import main
from edgewise.errors import CheckpointError, ConfigError, ExportError, MissingExtraError
from edgewise.export import cases as export_cases
from edgewise.export.onnx_folder.optimum import PYTHON, export_with_optimum, task_of
from edgewise.export.probes import probes
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.load import load

from .exported import GOLDENS, KEPT, expected

# Stands for the Python of an environment with optimum: says which releases it has, and copies graphs that are there.
STAND_IN = f"""#!{sys.executable}
import json, os, shutil, sys
from pathlib import Path
if sys.argv[1] == "-c":
    found = {{"optimum-onnx": "0.1.0", "transformers": "4.57.6"}}
    print("null" if os.environ.get("ABSENT") else json.dumps(found))
    sys.exit()
told = {{name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "PYTHONPATH", "PYTHONSAFEPATH")}}
told["beside"] = os.listdir()
Path(os.environ["ASKED"]).write_text(json.dumps({{"argv": sys.argv[1:], **told}}))
print("loading")
if os.environ.get("FAILS"):
    print("ValueError: no such network", file=sys.stderr)
    sys.exit(3)
shutil.copytree(os.environ["GRAPHS"], sys.argv[-1])
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder without graphs: here only its configuration counts."""
    folder = tmp_path / "tiny-opt"
    folder.mkdir()
    shutil.copyfile(GOLDENS / "opt" / "config.json", folder / "config.json")
    (folder / "LICENSE").write_text("For tests.")
    return folder


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its file, and in the environment where it writes what it was asked."""
    file = tmp_path / "python"
    file.write_text(STAND_IN)
    file.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(file))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked.json"))
    monkeypatch.setenv("GRAPHS", str(GOLDENS / "opt"))
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.setattr(
        export_cases, "probes", lambda codec, room: [p for p in probes(codec, room) if p.name.startswith(KEPT)]
    )
    return tmp_path / "asked.json"


def test_a_bundle_of_what_the_process_makes(
    checkpoint: Path, stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "--exporter", "optimum", str(checkpoint), "-o", str(tmp_path / "b"), "--target", "cpu"]
    assert main(arguments) == 0
    asked = json.loads(stand_in.read_text())
    assert asked["argv"][:-1] == [
        *("-m", "optimum.exporters.onnx", "--model", str(checkpoint)),
        *("--task", "text-generation-with-past"),
    ]
    assert (asked["HF_HUB_OFFLINE"], asked["PYTHONPATH"], asked["PYTHONSAFEPATH"]) == ("1", None, "1")
    assert asked["beside"] == []  # nothing that could be imported in place of what is installed
    assert not Path(asked["argv"][-1]).exists()
    opened = Bundle.open(tmp_path / "b").manifest
    assert opened.name == "tiny-opt" and opened.licence.notice == "For tests."
    assert opened.provenance["exporter"] == "optimum-onnx 0.1.0, transformers 4.57.6"
    with load(tmp_path / "b", threads=1) as session:
        for row in expected("opt"):
            assert list(session.generate(row["text"], beam_size=1, max_new_tokens=8).tokens) == row["greedy"]


def test_modules_in_the_current_folder_are_not_run(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkpoint that somebody gave away, and that is exported from inside its folder."""
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setenv(PYTHON, str(Path("..", "python")))
    monkeypatch.setenv("MARK", str(tmp_path / "ran"))
    for name in ("json", "optimum"):
        (checkpoint / f"{name}.py").write_text("import os; open(os.environ['MARK'], 'w')")
    monkeypatch.chdir(checkpoint)
    with pytest.raises(MissingExtraError, match="has no optimum"):
        export_with_optimum(Path(), tmp_path / "graphs", lambda *_: None)
    assert not (tmp_path / "ran").exists()


def test_progress_is_what_the_process_says(checkpoint: Path, stand_in: Path, tmp_path: Path) -> None:
    told: list[Any] = []
    export_with_optimum(checkpoint, tmp_path / "graphs", lambda *step: told.append(step))
    assert told == [(0, 1, "optimum: loading")]


def test_a_process_that_fails(
    checkpoint: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(ExportError, match=r"optimum could not export .*tiny-opt \(exit status 3\): (?s:.*)no such net"):
        export_with_optimum(checkpoint, tmp_path / "graphs", lambda *_: None)


def test_no_optimum(checkpoint: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSENT", "1")
    for python in (os.environ[PYTHON], str(tmp_path / "nothing")):
        monkeypatch.setenv(PYTHON, python)
        with pytest.raises(
            MissingExtraError, match=r"has no optimum .*: pip install optimum-onnx torch, best in an env"
        ):
            export_with_optimum(checkpoint, tmp_path / "graphs", lambda *_: None)


def test_a_folder_of_a_newer_release_than_the_exporters(checkpoint: Path, stand_in: Path, tmp_path: Path) -> None:
    """Of which it passes over fields in silence."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "transformers_version": "5.24.0"}))
    with pytest.raises(
        ConfigError, match=r"was written by transformers 5.24.0, and optimum has 4.57.6, which may pass"
    ):
        export_with_optimum(checkpoint, tmp_path / "graphs", lambda *_: None)


@pytest.mark.parametrize("release", ["²", "9" * 5000, "dev", ""])
def test_a_release_that_is_no_number_is_passed_over(
    release: str, checkpoint: Path, stand_in: Path, tmp_path: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "transformers_version": release}))
    assert "optimum-onnx" in export_with_optimum(checkpoint, tmp_path / "graphs", lambda *_: None)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("PhiForCausalLM", "text-generation-with-past"),
        ("GPT2LMHeadModel", "text-generation-with-past"),
        ("PegasusForConditionalGeneration", "text2text-generation-with-past"),
        ("MarianMTModel", "text2text-generation-with-past"),
        ("ElectraForSequenceClassification", "text-classification"),
        ("MPNetModel", "feature-extraction"),
    ],
)
def test_tasks(architecture: str, task: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    assert task_of(tmp_path) == task


def test_folders_without_a_task(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"has no config.json: optimum exports folders as Hugging Face writes them"
    ):
        task_of(tmp_path)
    for config in ({"architectures": ["ViTForImages"]}, {"architectures": [5]}, {"architectures": []}, []):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=r"architectures is .*, expected one name that ends in ForCausalLM, LMH"):
            task_of(tmp_path)


def test_options_that_are_not_for_it(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = ["export", "-o", str(tmp_path / "b"), "--exporter", "optimum"]
    for words, said in (
        (
            [str(checkpoint), "--family", "x.py"],
            "--family is for checkpoints, and --exporter optimum makes ONNX graphs",
        ),
        ([str(GOLDENS / "llama")], "holds ONNX graphs already: leave out --exporter"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*export, *words])
        assert said in capsys.readouterr().err


def test_an_unknown_architecture_says_that_there_is_another_way(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"architectures": ["BloomForCausalLM"]}))
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "b")]) == 1
    assert "edgewise export --exporter optimum, see docs/formats.md" in capsys.readouterr().err


TINY: dict[str, Any] = {"vocab_size": 304, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2}
OLDER: dict[str, dict[str, Any]] = {
    "Phi": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "partial_rotary_factor": 0.25,
        "rope_theta": 1e4,
    },
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
}
"""Architectures without a row, as transformers 4 writes them; 5 has some fields in ``rope_parameters``."""


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get(PYTHON), reason=f"needs {PYTHON}, the Python of an environment with optimum-onnx"
)
@pytest.mark.parametrize("name", OLDER)
def test_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    import torch
    import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

    from ..families.decoders import decoder_folder, library

    fields = {**TINY, **OLDER[name]}
    rope = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": fields.get("partial_rotary_factor", 1.0),
    }
    newer = fields if name == "GPTJ" else {**fields, "rope_parameters": rope}
    folder = decoder_folder(tmp_path / "tiny", getattr(transformers, f"{name}Config")(**newer), seed=1, std=0.3)
    written = json.loads((folder / "config.json").read_text())
    assert written.pop("rope_parameters", rope) == rope
    network = library(folder)
    (folder / "config.json").write_text(json.dumps({**written, **fields, "transformers_version": "4.57.6"}))
    arguments = ["export", "--exporter", "optimum", str(folder), "-o", str(tmp_path / "b")]
    with pytest.MonkeyPatch.context() as patch:
        few = lambda codec, room: [p for p in probes(codec, room) if p.name.startswith(KEPT)]  # noqa: E731
        patch.setattr(export_cases, "probes", few)
        assert main(arguments) == 0
    for target in ("cpu", "openvino"):
        with load(tmp_path / "b", target, threads=1) as session:
            assert session.verify().ok
            for text in ("A man is riding a bicycle.", "Two", "In the snow, a girl"):
                found = session.generate(text, beam_size=1, max_new_tokens=12)
                ids = torch.tensor([found.source_tokens])
                wanted = network.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
                assert list(found.tokens) == wanted
