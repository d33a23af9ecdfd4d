"""Medians, ratios, tables and charts, from numbers a reader can check by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewise.benchmarks.peers import chart, report
from edgewise.benchmarks.peers.__main__ import main
from edgewise.benchmarks.peers.cell import Answer
from edgewise.benchmarks.peers.results import Cell, Measured, Setting, agreement
from edgewise.benchmarks.peers.systems import OURS
from edgewise.errors import InputError, MissingExtraError

S1, S2 = (Setting(workload=w, threads=1, batch=8, beam_size=4) for w in ("s1", "s2"))
S3 = Setting(workload="s3", threads=1, batch=1, beam_size=1)


def answer(*seconds: float, **changes: Any) -> Answer:
    plain: dict[str, Any] = {
        "start": 0.1,
        "imported": 0.2,
        "loaded": 0.3,
        "first_output": 0.4,
        "seconds": list(seconds),
        "cpu_seconds": 1.5 * sum(seconds),
        "sentences": 8,
        "tokens": 512,
        "peak_memory_bytes": 50_000_000,
        "versions": {"python": "3.11"},
        "outputs": None,
    }
    return Answer(**{**plain, **changes})


def measured(system: str, *rounds: list[float], setting: Setting = S1, **more: Any) -> Measured:
    answers = [answer(*seconds) for seconds in rounds]
    return Measured(cell=Cell(setting=setting, system=system), model_bytes=2_000_000, answers=answers, **more)


OWN = measured(OURS, [1.0, 2.0], [3.0, 4.0, 5.0], quality={"agree": 0.5})
FASTER = measured("ctranslate2-int8", [0.5, 1.0], [4.0, 2.0, 3.0], quality={"agree": 0.25})


def test_the_median_is_that_of_all_passes_of_all_rounds() -> None:
    assert (OWN.seconds, OWN.passes) == (3.0, 5)
    assert OWN.speed == 3000.0
    assert OWN.tokens_per_second == 512 / 3
    assert measured("x", [2.0], setting=S2).speed == 4.0


def test_ratios_are_of_medians_and_their_range_is_within_rounds() -> None:
    assert FASTER.ratio(OWN) == pytest.approx(2.0 / 3.0)
    assert FASTER.ratios(OWN) == pytest.approx([0.75 / 1.5, 3.0 / 4.0])
    assert OWN.ratios(OWN) == [1.0, 1.0]


def test_a_cold_start_is_the_sum_of_its_parts() -> None:
    assert OWN.cold("imported") == 0.2
    assert OWN.cold("start", "imported", "loaded", "first_output") == pytest.approx(1.0)
    assert Measured(cell=OWN.cell, model_bytes=0, answers=[answer(1.0, start=None)]).cold("start", "loaded") == 0.3


def test_results_survive_json() -> None:
    again = Measured.from_json(json.loads(json.dumps(FASTER.to_json())))
    assert again == FASTER


@pytest.mark.parametrize(
    ("row", "expected", "share"),
    [
        ([5, 6, 7], [5, 6, 7], 1.0),
        ([5, 9, 7], [5, 6, 7], 0.25),
        ([5, 6], [5, 6, 7], 0.5),
        ([5, 6, 7, 8], [5, 6, 7], 0.75),
        ([], [5], 0.0),
        ([], [], 1.0),
    ],
    ids=["same", "second differs", "too short", "too long", "nothing", "both nothing"],
)
def test_agreement_counts_tokens_before_the_first_difference(row: list[int], expected: list[int], share: float) -> None:
    assert agreement([row, row], [expected, row]) == pytest.approx((share + 1.0) / 2)


def found(*results: Measured) -> dict[str, Any]:
    work = {"times": 64, "weights": 38_000_000, "cache": 2_000_000, "products": 0}
    ceiling = {"threads": 1, "bandwidth": [[1, 20e9]], "int8": 1e9, "float32": 1e9}
    floors = {"ceilings": [ceiling], "floors": [{"setting": vars(S1), "work": [work]}]}
    machine = {"processor": "A chip", "features": ["avx512_vnni"], "processors": 2, "system": "Linux"}
    results_json = [result.to_json() for result in results]
    return {"machine": machine, "rounds": 2, "repeats": 3, "results": results_json, **floors}


def report_of(*results: Measured) -> str:
    """The tables of these cells."""
    return report.tables(found(*results))


def test_the_table_has_the_fastest_first_and_what_failed_last() -> None:
    lost = Measured(cell=Cell(setting=S1, system="optimum-intel-int8"), model_bytes=1, failure="it said no")
    lines = report.tables(found(OWN, lost, FASTER)).splitlines()
    assert lines[0] == "A chip, 2 processors, avx512_vnni; Linux"
    assert lines[3] == "1 thread, batch 8, beam 4; speed: milliseconds a request"
    header, first, second = (line.split() for line in lines[4:7])
    assert (first[0], second[0]) == ("ctranslate2-int8", OURS)
    assert first[1:7] == ["2000.0", "0.67", "0.50-0.75", "15.6", "256", "1.50"]
    assert second[1:7] == ["3000.0", "1.00", "1.00-1.00", "23.4", "171", "1.50"]
    assert first[7:] == ["25.0%", "0.20", "0.30", "0.40", "1.00", "50", "2.0"]
    assert header[-2:] == ["model", "MB"]
    assert (
        lines[7]
        == f"{OURS} is 0.67 times as fast as ctranslate2-int8, the best other system: the goal of 1.2 is missed"
    )
    assert lines[8] == "optimum-intel-int8: failed: it said no"


def test_the_floor_stands_beside_the_time() -> None:
    """40 MB at 20 GB/s are 2 ms a step and 128 ms for 64 steps; 3 seconds are 23.4 times as long, 2 are 15.6."""
    text = report.tables(found(OWN, FASTER))
    assert (
        "roofline of int8: 64 x (38.0 MB of weights and 2.0 MB of caches at 20.0 GB/s, from memory 20.0 GB/s; "
        "0.00 G products at 1 G/s) = 128.00 ms"
    ) in text
    rows = {line.split()[0]: line.split()[4] for line in text.splitlines()[5:7]}
    assert rows == {OURS: "23.4", "ctranslate2-int8": "15.6"}


def test_a_chart_shows_the_distance_to_the_roofline(tmp_path: Path) -> None:
    chart.draw_floors(found(OWN, FASTER), tmp_path / "roofline.svg")
    drawn = (tmp_path / "roofline.svg").read_text()
    assert f"{OURS}  23.4" in drawn
    assert "ctranslate2-int8  15.6" in drawn


def test_nothing_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is nothing to draw: the run has no cell of edgewise, or was stopped"):
        chart.draw_floors(found(OWN) | {"ceilings": []}, tmp_path / "roofline.svg")


def test_without_edgewise_there_are_no_ratios() -> None:
    row = report.tables(found(FASTER)).splitlines()[5].split()
    assert row[:4] == ["ctranslate2-int8", "2000.0", "-", "-"]


def test_a_system_of_less_accuracy_is_marked_and_not_compared_with() -> None:
    setting = Setting(workload="s4", threads=1, batch=32, beam_size=1)
    own = measured(OURS, [2.0], setting=setting, quality={"cosine": 0.9995, "Spearman": 0.87})
    rough = measured("onnxruntime-int8-by-hand", [1.0], setting=setting, quality={"cosine": 0.9934})
    equal = measured("openvino-int8-by-hand", [3.0], setting=setting, quality={"cosine": 0.999})
    lines = report.tables(found(own, rough, equal)).splitlines()
    assert "cosine  Spearman" in lines[4]
    assert [line.split()[0] for line in lines[5:8]] == ["onnxruntime-int8-by-hand", OURS, "openvino-int8-by-hand"]
    assert lines[5].split()[1] == "*"
    assert "0.99950    0.8700" in lines[6]
    assert lines[8] == (
        f"{OURS} is 1.50 times as fast as openvino-int8-by-hand, the best other system of equal accuracy: "
        "the goal of 1.2 is met"
    )
    assert lines[9] == "* is less accurate, out of the comparison: cosine below 0.999"


def test_a_system_that_loses_perplexity_is_not_compared_with_and_one_that_tells_none_is() -> None:
    """Requests less 0.5 seconds for the first token; the limit is 27.02, 1.06 times PyTorch's 25.494."""
    first: dict[str, Any] = {"first_token_seconds": [0.5], "first_token_cpu_seconds": 0.5}
    measured_ = [
        Measured(
            cell=Cell(setting=S3, system=system),
            model_bytes=1,
            answers=[answer(seconds, sentences=1, tokens=129, **first)],
            quality=quality,
        )
        for system, seconds, quality in (
            ("llama.cpp-q4_0", 1.5, {"perplexity": 28.2, "agree": 0.1}),
            ("openvino-genai-int8", 2.5, {"agree": 0.9}),
            ("llama.cpp-q4_1", 3.5, {"perplexity": 27.02}),
            ("edgewise-int4", 1.75, {"perplexity": 25.6}),
        )
    ]
    assert [one.counts for one in measured_] == [False, True, True, True]
    later = report_of(*measured_).split("S3, ")[2].splitlines()
    assert [" ".join(line.split()[:2]) for line in later[3:5]] == ["llama.cpp-q4_0 *", "edgewise-int4 102.4"]
    assert later[5].startswith("openvino-genai-int8 ?")
    assert later[7] == (
        "edgewise-int4 is 1.60 times as fast as openvino-genai-int8, the best other system of equal accuracy: "
        "the goal of 1.2 is met"
    )
    assert later[8] == "* is less accurate, out of the comparison: perplexity above 27.02"
    assert later[9] == "? was not judged, so it is compared with as if it were as accurate"


def test_the_speed_of_vectors_is_a_request(tmp_path: Path) -> None:
    """8 sources in a pass of 2 seconds are 4 milliseconds each alone, and 8 a request of 32."""
    for batch, milliseconds in ((1, 250.0), (32, 8000.0)):
        setting = Setting(workload="s4", threads=1, batch=batch, beam_size=1)
        assert measured(OURS, [2.0], setting=setting).speed == milliseconds


def test_the_s2_table_has_sentences_a_second_and_bleu() -> None:
    text = report.tables(found(measured(OURS, [2.0], setting=S2, quality={"BLEU": 38.824})))
    assert "speed: sentences a second" in text
    assert text.splitlines()[5].split()[:2] == ["edgewise-int8", "4.00"]
    assert "38.82" in text


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_chart_has_a_bar_a_system(tmp_path: Path, suffix: str) -> None:
    file = (tmp_path / "chart").with_suffix(suffix)
    chart.draw(found(OWN, FASTER), file)
    assert file.stat().st_size > 1000
    if suffix == ".svg":
        assert "ctranslate2-int8" in file.read_text()


def test_a_chart_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"the chart needs matplotlib: pip install 'edgewise\[export\]'"):
        chart.draw(found(OWN), tmp_path / "chart.svg")


def test_the_command_prints_a_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(found(OWN, FASTER)))
    assert main(["report", str(tmp_path / "run.json"), "--chart", str(tmp_path / "chart.svg")]) == 0
    assert "ctranslate2-int8" in capsys.readouterr().out
    assert (tmp_path / "chart.svg").is_file()
