"""The command line with speech: files of features in, text out."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgewise
from edgewise.cli import main
from edgewise.cli_speech import read_features
from edgewise.errors import InputError
from edgewise.runtime.results import Transcription

from ..bundles import tiny_bundle
from .whisper_folders import CASES, random_features, whisper_bundle

pytestmark = pytest.mark.slow
SEVERAL, ONE = CASES
RUN = ["--target", "cpu", "--precision", "fp32", "--threads", "1", "--max-new-tokens", "12"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Features of one window, and of two."""
    windows = random_features(8).numpy()
    np.save(tmp_path / "one.npy", windows[0])
    np.save(tmp_path / "two.npy", windows[1:])
    return [str(tmp_path / "one.npy"), str(tmp_path / "two.npy")]


def expected(**options: Any) -> list[Transcription]:
    with edgewise.load(whisper_bundle(SEVERAL), "cpu", "fp32", 1) as session:
        return session.transcribe(random_features(8).numpy(), max_new_tokens=12, **options)


def test_a_file_in_is_a_line_out(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--language", "de", "--translate", "--beam-size", "2"]
    assert main(["run", str(whisper_bundle(SEVERAL)), *files, *RUN, *asked]) == 0
    one, two, three = (result.text for result in expected(language="de", task="translate", beam_size=2))
    assert capsys.readouterr().out == f"{one}\n{' '.join(filter(None, (two, three)))}\n"


def test_with_times_and_as_json(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--timestamps", "--previous", "so my fellow", "--beam-size", "1"]
    assert main(["run", str(whisper_bundle(SEVERAL)), files[1], *RUN, *asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    results = expected(timestamps=True, previous="so my fellow", beam_size=1)[1:]
    assert [w["text"] for w in said["windows"]] == [result.text for result in results]
    for window, result in zip(said["windows"], results, strict=True):
        assert window["language"] == result.language
        assert window["language_probability"] == pytest.approx(result.language_probability)
        assert window["hypotheses"][0]["tokens"] == list(result.tokens)
        assert [(s["start"], s["end"], s["text"]) for s in window["segments"]] == [
            (s.start, s.end, s.text) for s in result.segments
        ]
    first = results[0].segments[0]
    assert first.end is not None
    assert said["output"].startswith(f"[{first.start:.2f}-{first.end:.2f}] {first.text.strip()}")


def test_what_the_results_of_others_do_not_lose(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(whisper_bundle(SEVERAL)), files[0], f"{files[0]}x", *RUN]) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert "text 2: " in said.err
    assert "one.npyx cannot be read (No such file or directory): name a .npy file of log-mel features" in said.err


def test_no_file_is_written_down_twice_for_one_that_cannot_be_read(
    files: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard, transcribe = list[int](), edgewise.Session.transcribe

    def counted(session: edgewise.Session, features: Any, **options: Any) -> Any:
        heard.append(features.ndim)
        return transcribe(session, features, **options)

    monkeypatch.setattr(edgewise.Session, "transcribe", counted)
    np.save(tmp_path / "short.npy", np.zeros((8, 40), np.float32))
    assert main(["run", str(whisper_bundle(SEVERAL)), *files, str(tmp_path / "short.npy"), *RUN]) == 1
    assert heard == [2, 3]


USAGE: dict[str, list[str]] = {
    "--from, --to: a bundle made for transcribe takes --language and --translate": ["--from", "de"],
    "--overflow truncate: a bundle made for transcribe takes whole windows": ["--overflow", "truncate"],
    "--sentences: a bundle made for transcribe translates nothing": ["--sentences"],
}


@pytest.mark.parametrize("message", USAGE)
def test_options_of_texts_are_refused(message: str, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--bundle", str(whisper_bundle(SEVERAL)), files[0], *RUN, *USAGE[message]])
    assert message in capsys.readouterr().err


def test_options_of_speech_are_refused_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", str(tiny_bundle("translate")), "a", "--timestamps", "--language", "de"])
    assert "--language, --timestamps: a bundle made for translate hears nothing" in capsys.readouterr().err


def test_bench_has_nothing_to_time_it_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(whisper_bundle(SEVERAL)), "--target", "cpu", "--precision", "fp32"]) == 1
    assert "is made to transcribe, and a bundle holds no speech to time it with" in capsys.readouterr().err


def header(text: str, version: tuple[int, int] = (1, 0), rest: bytes = b"") -> bytes:
    """A ``.npy`` file by hand."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes(version) + size + text.encode() + b"\n" + rest


FLOAT = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
BAD: dict[str, bytes] = {
    "is no .npy file of one array of numbers: save": b"PK\x03\x04 what a zip begins with",
    "is no .npy file of one array": b"",
    "is no .npy file of one": header(FLOAT, (3, 0), bytes(24)),
    "is no .npy file of": header("__import__('os').system('echo')"),
    "is no .npy file": header(FLOAT.replace("'<f4'", "[('a', '<f4')]"), rest=bytes(24)),
    "is no .npy": header(FLOAT.replace("(2, 3)", "(-1, 6)"), rest=bytes(24)),
    "is no": header(FLOAT.replace("(2, 3)", f"({'9' * 30},)")),
    "holds numbers of type '<f8', expected '<f4'": header(FLOAT.replace("f4", "f8"), rest=bytes(48)),
    r"holds numbers of type '\|O', expected": header(FLOAT.replace("<f4", "|O"), rest=b"pickle"),
    r"says an array of shape \(2, 3\), and has 23 bytes of it": header(FLOAT, rest=bytes(23)),
    r"says an array of shape \(9+,\), and has 0 bytes": header(FLOAT.replace("(2, 3)", f"({'9' * 18},)")),
    r"says an array of shape \(0, 9+\), and has": header(FLOAT.replace("(2, 3)", f"(0, {'9' * 18})")),
    "says an array of 70 dimensions, expected": header(FLOAT.replace("(2, 3)", f"({'1, ' * 70})"), rest=bytes(4)),
    "holds numbers of type '<f\ufffd', expected": header(FLOAT).replace(b"<f4", b"<f\xff"),
}


@pytest.mark.parametrize("message", BAD)
def test_files_that_are_refused(message: str, tmp_path: Path) -> None:
    file = tmp_path / "features.npy"
    file.write_bytes(BAD[message])
    with pytest.raises(InputError, match=message):
        read_features(file)


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "features.npy", np.zeros((8, 60), np.float32))
    monkeypatch.setattr("edgewise.cli_speech.MAX_BYTES", 2000)
    with pytest.raises(InputError, match=r"features.npy has more than 2000 bytes: split it"):
        read_features(tmp_path / "features.npy")


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_that_are_read(order: Any, tmp_path: Path) -> None:
    for features in (random_features(8).numpy(), np.zeros(3, np.float32), np.zeros((0, 8, 60), np.float32)):
        np.save(tmp_path / "features.npy", np.asarray(features, order=order))
        np.testing.assert_array_equal(read_features(tmp_path / "features.npy"), features, strict=True)
    features = random_features(8).numpy()
    with (tmp_path / "features.npy").open("wb") as file:
        np.lib.format.write_array(file, features, version=(2, 0))
    np.testing.assert_array_equal(read_features(tmp_path / "features.npy"), features, strict=True)
