"""What a benchmark says, never how fast it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.benchmarks import bench, demo
from edgewise.benchmarks.memory import peak_memory
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.session import Session

from ..runtime.tiny_session import session_for

TEXTS = ["A man is riding a bicycle.", "Two dogs run.", "A woman, a hat."]


@pytest.fixture
def session(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A tiny random model without files."""
    monkeypatch.setattr(bench, "texts_of", lambda session, count: [TEXTS[i % 3] for i in range(count)])
    monkeypatch.setattr(Bundle, "size", lambda self, variant: 1000)
    return session_for(request.param, max_positions=48)


@pytest.mark.parametrize("session", ["translate", "generate"], indirect=True)
def test_decoders_are_timed_greedy_with_beams_and_in_batches(session: Session) -> None:
    told: list[Any] = []
    report = bench.measure(session, repeats=2, texts=4, progress=lambda *step: told.append(step))
    assert [row.workload for row in report.rows] == ["greedy b1", "beam 5 b1", "greedy b32"]
    assert [row.requests for row in report.rows] == [8, 8, 2]
    for row in report.rows:
        assert 0 < row.p50_ms <= row.p90_ms
        assert row.first_token_ms is not None
        assert row.first_token_ms <= row.p90_ms
        assert row.tokens_per_second > 0
    assert told[-1] == (2, 3, "greedy b32")


@pytest.mark.parametrize("session", ["classify", "fill_mask"], indirect=True)
def test_encoders_are_timed_alone_and_in_batches(session: Session) -> None:
    report = bench.measure(session, repeats=1, texts=3)
    assert [row.workload for row in report.rows] == ["b1", "b32"]
    assert all(row.first_token_ms is None for row in report.rows)


@pytest.mark.parametrize("session", ["translate"], indirect=True)
def test_the_report_is_json_and_a_table(session: Session) -> None:
    report = bench.measure(session, repeats=1, texts=2)
    data = json.loads(json.dumps(report.to_json()))
    assert data["model_bytes"] == 1000
    assert data["peak_memory_bytes"] > 1e6
    assert {"p50_ms", "p90_ms", "first_token_ms", "tokens_per_second", "texts_per_second"} <= set(data["rows"][0])
    table = report.table()
    assert "greedy b32" in table
    assert "tokens/s" in table


def test_memory_is_this_process_own_and_not_its_parents() -> None:
    held = np.ones(60_000_000 // 8)
    assert (peak_memory() or 0) > held.nbytes
    script = "from edgewise.benchmarks.memory import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 5e6 < int(child.stdout) < (peak_memory() or 0)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (50, 5.0), (90, 9.0), (91, 10.0), (100, 10.0)], ids="p{}".format
)
def test_percentiles_are_values_that_were_measured(percent: float, expected: float) -> None:
    assert bench.percentile([float(i) for i in (7, 3, 1, 10, 2, 9, 4, 8, 6, 5)], percent) == expected


def test_a_demo_work_order_survives_its_command_line(tmp_path: Path) -> None:
    texts = str(tmp_path / "texts")
    told = demo.Work(
        system="cpu-int8", bundle="b", checkpoint="c", threads=2, texts=texts, length_penalty=0.6, translate=True
    )
    assert demo.Work(**json.loads(json.dumps(vars(told)))) == told


def test_the_demos_table_compares_with_pytorch() -> None:
    speed = dict.fromkeys(demo.TIMED, 10.0)
    row = {
        "system": "cpu-int8",
        "bytes": 2_800_000,
        "chrF": 99.5,
        "agreement": 0.975,
        "sentences_per_second": speed,
        "times_pytorch": dict.fromkeys(demo.TIMED, 5.0),
        "peak_memory_bytes": 110e6,
    }
    header, line = demo._table([row], "chrF").splitlines()
    assert len(header) == len(line)
    assert line.split() == ["cpu-int8", "2.80", "99.50", "97.5%", *["10.0", "(5.0x)"] * 3, "110"]


def test_quality_is_bleu_with_references_and_chrf_without() -> None:
    texts = ["Ein Mann fährt auf einem Fahrrad .", "Zwei Hunde laufen über die Wiese ."]
    assert demo._quality(texts, None, texts)["chrF"] == pytest.approx(100.0)
    found = demo._quality(texts, texts, texts)
    assert found["BLEU"] == pytest.approx(100.0)
    assert "tok:13a" in found["signature"]


@pytest.mark.parametrize("count", [None, 3], ids=["all", "some"])
def test_without_the_data_set_the_demo_has_sentences_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int | None
) -> None:
    monkeypatch.delenv("MULTI30K", raising=False)
    one = demo.Demo(demo._arguments(["--sentences", "3"] if count else []), tmp_path)
    assert len(one.sources) == (count or 200)
    assert one.references is None


def test_with_the_data_set_it_takes_the_test_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for language in ("en", "de"):
        (tmp_path / f"test_2016_flickr.{language}").write_text(f"{language} 1\n{language} 2\n")
    monkeypatch.setenv("MULTI30K", str(tmp_path))
    one = demo.Demo(demo._arguments([]), tmp_path)
    assert (one.sources, one.references) == (["en 1", "en 2"], ["de 1", "de 2"])
