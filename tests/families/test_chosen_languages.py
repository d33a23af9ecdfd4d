"""Translators of many languages without one by default: what judges and times them is told which, by option."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import edgewise
from edgewise.benchmarks import published
from edgewise.cli import main
from edgewise.errors import InputError
from edgewise.models.open import open_checkpoint
from edgewise.pipeline import export_bundle
from edgewise.quantize import gate

from ..bundles import export_few, record_few_cases, rows_where_possible
from .folders import change_json, marian_folder
from .multilingual import language_ids, library_model, library_source, multilingual_folder

pytestmark = pytest.mark.slow
TEXTS = ["A man is riding a bicycle.", "Two dogs play in the snow."]
EN_DE = {"source": "en", "target": "de"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return multilingual_folder(tmp_path_factory.mktemp("many") / "m", "m2m100")


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle") / "b"
    export_few(folder, made, ("cpu",), ("fp32",))
    return made


def test_bench(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = ["bench", str(bundle), "--texts", "2", "--repeats", "1"]
    for options, fault in (([], "source (None)"), (["--from", "en", "--to", "e"], "target ('e')")):
        assert main([*bench, *options]) == 1
        said = capsys.readouterr().err
        assert f"{fault} must be a language of bundle 'm': af, am, " in said
        assert said.rstrip().endswith("names it, or --from" if not options else "names it, or --to")
    assert main([*bench, "--from", "en", "--to", "de"]) == 0
    assert "greedy b1" in capsys.readouterr().out


def test_lengths_count_the_token_of_the_language(folder: Path, tmp_path: Path) -> None:
    """As in the library: of ``max_length`` tokens the decoder's first is one, and the language another."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    change_json(copy / "generation_config.json", max_length=9, min_length=9, num_beams=1)
    ids = torch.tensor([library_source(copy, "m2m100", TEXTS[0], "en")])
    written = library_model(copy).generate(ids, forced_bos_token_id=language_ids(copy, "m2m100")["de"])[0].tolist()
    decoding = open_checkpoint(copy).decoding
    assert len(written) == 9
    assert (decoding["max_new_tokens"], decoding["min_new_tokens"]) == (7, 7)


def test_the_table_of_published_models(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of it names the languages."""
    rows = (published.Model(name="b", source="b", variants=(), library="", languages=EN_DE),)
    with pytest.raises(InputError, match=r"source \(None\) must be a language of bundle 'm'"):
        published.speed(bundle, "cpu-fp32", 1)
    monkeypatch.setattr(published, "MODELS", rows)
    assert "tokens/s" in published.speed(bundle, "cpu-fp32", 1)["speed"]


@pytest.fixture(scope="module")
def evaluation(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Texts, and what the bundle makes of them in one of its languages."""
    folder = tmp_path_factory.mktemp("texts")
    with edgewise.load(bundle, threads=1) as session:
        found = [g.text for g in session.translate(TEXTS, source="en", target="de")]
    files = (folder / "source", folder / "target")
    for file, lines in zip(files, (TEXTS, found), strict=True):
        file.write_text("".join(f"{' '.join(line.split())}\n" for line in lines), encoding="utf-8")
    return files


def test_an_evaluation(
    folder: Path, evaluation: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the languages that it is in: float32 gives what a session gives for them."""
    judged, translate = [], gate.translate_all
    monkeypatch.setattr("edgewise.pipeline.record_cases", record_few_cases)
    monkeypatch.setattr(gate, "translate_all", lambda *given: judged.append(translate(*given)) or judged[-1])
    export_bundle(
        folder, tmp_path / "b", ("cpu",), ("int8",), evaluation, 100.0, lambda *_: None,
        rows_where_possible, languages=EN_DE,
    )  # fmt: skip
    with edgewise.load(tmp_path / "b", threads=1) as session:
        other = [g.text for g in session.translate(TEXTS, source="en", target="zu")]
    references = evaluation[1].read_text(encoding="utf-8").splitlines()
    assert [" ".join(line.split()) for line in judged[0]] == references != other


def test_an_evaluation_in_no_language(
    folder: Path,
    evaluation: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Said before anything is built."""
    monkeypatch.setattr("edgewise.pipeline.record_cases", lambda *_: pytest.fail("it is being built"))

    def export(source: Path, *options: str) -> str:
        assert main(["export", str(source), "-o", str(tmp_path / "b"), *options]) == 1
        return capsys.readouterr().err

    judged = ("--eval", *map(str, evaluation))
    assert "target (None) must be a language of bundle 'm': af, am, " in export(folder, *judged, "--from", "en")
    plain = marian_folder(tmp_path / "plain")
    assert "'plain' has no languages to choose from: leave out --from and --to" in export(plain, *judged, "--to", "de")
    with pytest.raises(SystemExit, match="2"):
        export(folder, "--to", "de")
    assert "--from, --to: languages of the texts of --eval, and there are none" in capsys.readouterr().err
