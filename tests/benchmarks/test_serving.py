"""Benchmarks of many callers and of tokens read ahead: what they count, never how fast it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgewise
from edgewise.benchmarks import serving, speculation
from edgewise.benchmarks.serving import EACH, serve
from edgewise.benchmarks.speculation import compare
from edgewise.errors import EngineError

from ..bundles import tiny_bundle


@pytest.mark.parametrize("task", ["translate", "generate"])
def test_every_caller_gets_its_answers_in_both_ways(task: str, monkeypatch: pytest.MonkeyPatch) -> None:

    sent = list[str]()
    monkeypatch.setattr(serving, "texts_of", lambda _, count: [f"A man, {i}." for i in range(count)])
    rounds = serving._round

    async def counted(send: Any, texts: Any, callers: int) -> Any:
        sent.extend(texts)
        found = await rounds(send, texts, callers)
        assert len(found[1]) == len(texts)
        return found

    monkeypatch.setattr(serving, "_round", counted)
    with edgewise.load(tiny_bundle(task), "cpu", "int8", 1) as session:
        found = asyncio.run(serve(session, (1, 3), rounds=2, beam_size=1))
    assert [(one.way, one.callers) for one in found] == [("in turn", 1), ("joined", 1), ("in turn", 3), ("joined", 3)]
    assert len(sent) == (1 + 3) * EACH * 2 * 3
    assert all(0 < one.p50_ms <= one.p95_ms and one.texts_per_second > 0 for one in found)


def test_callers_have_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "cpu", "--precision", "int8", "--rounds", "1", "--callers", "2"]
    assert serving.main([str(tiny_bundle("translate")), *arguments]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == row.count("|") == 7
    assert row.startswith("| 2 | ")
    assert serving.main([str(tiny_bundle("translate") / "none"), *arguments]) == 1
    assert "serving: error: " in capsys.readouterr().err


def test_results_with_and_without_reading_ahead_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").write_text("A man, a man, a man.\n\nA dog.\\nA dog.\n")
    bundle = tiny_bundle("translate")
    assert speculation.main([str(bundle), str(tmp_path / "texts"), "--repeats", "1", "--max-new-tokens", "8"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| A man, a man, a man.", "| A dog. A dog."]
    assert speculation.main([str(bundle), str(tmp_path / "none")]) == 1
    assert "none cannot be read" in capsys.readouterr().err


def test_results_that_differ_are_an_error() -> None:
    counts = SimpleNamespace(speculation=SimpleNamespace(passes=1))

    def translate(_: str, *, speculate: int | None, **__: Any) -> Any:
        return SimpleNamespace(hypotheses=(speculate,), tokens=(1,), timings=counts)

    session: Any = SimpleNamespace(manifest=SimpleNamespace(task="translate"), translate=translate)
    with pytest.raises(EngineError, match="with speculate=3 another result was found"):
        compare(session, "a", 3, 8, 1)
