"""The table of published models: its numbers against others' formulas, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from edgewise.benchmarks import published, published_quality
from edgewise.benchmarks.published_quality import class_quality, text_quality, vector_quality
from edgewise.errors import EngineError, InputError

from ..bundles import tiny_bundle
from ..runtime.tiny_session import session_for

LINES = ["A man is riding a bicycle.", "Two dogs run on the grass.", "Ein Mann fährt Fahrrad.", "A woman, a hat."]


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    for name in ("text", "sts", "sst2"):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / "wikitext2_test.txt").write_text(" ".join(LINES * 20))
    (tmp_path / "text" / "alice_body.txt").write_text("by Lewis\nCHAPTER I. " + " ".join(LINES[::-1] * 20))
    pairs = [(LINES[i], LINES[j], (i * 3 + j) % 5) for i in range(4) for j in range(i)]
    rows = [f"g\tf\ty\t{i}\t{score}\t{a}\t{b}" for i, (a, b, score) in enumerate(pairs)]
    (tmp_path / "sts" / "sts-dev.csv").write_text("\n".join(rows))
    (tmp_path / "sst2" / "dev.tsv").write_text("\n".join(f"{line}\t{i % 2}" for i, line in enumerate(LINES)))
    return tmp_path


def test_perplexity_is_that_of_scores(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of windows as long as the context, here of 4; the text of Alice begins at its first chapter."""
    monkeypatch.setattr(published_quality, "WINDOWS", 4)
    session = session_for("generate", max_positions=24)
    found = text_quality(session, assets)
    for name, text in (("WikiText-2", " ".join(LINES * 20)), ("Alice", "CHAPTER I. " + " ".join(LINES[::-1] * 20))):
        ids = session.tokenizer.encode(text)
        log_probs: list[float] = []
        for begin in range(0, 96, 24):
            read = [session.manifest.model.start_id, *ids[begin : begin + 24]][:24]
            for i in range(1, 24):
                one = np.array([read[:i]])
                logits = session.engine.decoder_logits(None, one, np.ones((1, i), np.bool_))[0, -1].astype(np.float64)
                log_probs.append(float(logits[read[i]] - np.log(np.exp(logits).sum())))
        assert found[f"perplexity {name}"] == pytest.approx(np.exp(-np.mean(log_probs)), rel=1e-5)


def test_correlation_is_scipy_s(assets: Path) -> None:
    vectors = {line: np.random.default_rng(i).normal(size=5) for i, line in enumerate(LINES)}
    embed: Any = lambda texts: [SimpleNamespace(vector=vectors[text]) for text in texts]  # noqa: E731
    (found,) = vector_quality(SimpleNamespace(embed=embed), assets).values()  # type: ignore[arg-type]
    rows = [line.split("\t") for line in (assets / "sts" / "sts-dev.csv").read_text().splitlines()]
    cosines = [vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]) for *_, a, b in rows]
    assert found == pytest.approx(spearmanr(cosines, [float(row[4]) for row in rows]).statistic)


def test_accuracy(assets: Path) -> None:
    session = session_for("classify")
    labels = [session.classify(line).label for line in LINES]
    right = [label == ("negative", "positive")[i % 2] for i, label in enumerate(labels)]
    assert class_quality(session, assets) == {"accuracy SST-2 dev": sum(right) / 4}


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dev\.tsv cannot be read \(No such file.*: --assets names the folder"):
        class_quality(session_for("classify"), tmp_path)


MODEL = published.Model(name="tiny", source="x", variants=("cpu-fp32", "cpu-int8"), library="0.8 (itself)")


def test_the_table() -> None:
    row = {"model": MODEL, "variant": "cpu-fp32", "parameters": 1_234_567, "bytes": 2_345_678, "memory": 56_000_000}
    row |= {"quality": {"a": 0.123456, "b": 25.4912}, "speed": "9 ms"}
    other = row | {"variant": "cpu-int8", "memory": None}
    assert published.table([row, other]).splitlines()[2:] == [
        "| tiny | 1.2 M | `cpu-fp32` | 2.3 | a 0.1235; b 25.49 | 0.8 (itself) | 9 ms | 56 MB |",
        "|  |  | `cpu-int8` | 2.3 | a 0.1235; b 25.49 |  | 9 ms | unknown |",
    ]


@pytest.mark.slow
def test_rows_of_a_bundle(
    assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By processes of their own, as with the real ones."""
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "tiny").symlink_to(tiny_bundle("classify"))
    monkeypatch.setattr(published, "MODELS", (MODEL,))
    monkeypatch.setattr(published, "parameters", lambda *_: 1_000_000)
    (tmp_path / "x").touch()
    told = [
        "--models",
        str(tmp_path),
        "--assets",
        str(assets),
        "--bundles",
        str(tmp_path / "bundles"),
        "--repeats",
        "1",
    ]
    assert published.main(told) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[3].strip() for row in rows] == ["`cpu-fp32`", "`cpu-int8`"]
    assert all("accuracy SST-2 dev 0." in row and "texts/s at batch 32" in row for row in rows)
    with pytest.raises(
        EngineError, match=r"(?s)--child speed .* failed: .*no variant for target cpu at precision int4"
    ):
        published._child("speed", tmp_path / "bundles" / "tiny", "cpu-int4", "1")


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="x is not there: run 'make models', or name the folder with --models"):
        published.make(MODEL, tmp_path, tmp_path)
    with pytest.raises(SystemExit):
        published.main([])
    assert "quality needs --assets" in capsys.readouterr().err
    assert (
        json.dumps([m.name for m in published.MODELS]) == '["SmolLM2-135M-Instruct", "all-MiniLM-L6-v2", "sentiment"]'
    )
