"""How good vectors are, against scipy and against numbers a reader can check by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from edgewise.benchmarks.peers import quality
from edgewise.benchmarks.peers.catalogue import systems_of
from edgewise.benchmarks.peers.cell import Answer
from edgewise.benchmarks.peers.places import Places
from edgewise.benchmarks.peers.prepare_vectors import JUDGED, JUDGEMENTS, VECTORS, judged_pairs
from edgewise.benchmarks.peers.systems import OURS, System
from edgewise.benchmarks.peers.workloads import S4
from edgewise.errors import EngineError, InputError, VerificationError

from .test_results import answer


@pytest.mark.parametrize("decimals", [8, 1], ids=["distinct", "with equals"])
def test_rank_correlation_is_that_of_scipy(decimals: int) -> None:
    left, right = np.random.default_rng(0).normal(size=(2, 50)).round(decimals)
    assert quality.spearman(left, right + left) == pytest.approx(spearmanr(left, right + left).statistic)


def test_the_correlation_is_of_cosines_within_pairs() -> None:
    """Cosines 1, 0 and -1 against 5, 3 and 1: the same order; lengths do not matter."""
    vectors = [[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, -1.0]]
    assert quality.correlation(vectors, [5.0, 3.0, 1.0]) == pytest.approx(1.0)
    assert quality.correlation(vectors, [1.0, 3.0, 5.0]) == pytest.approx(-1.0)


def test_the_cosine_is_the_mean_over_the_rows() -> None:
    expected = np.array([[1, 0], [0, 2]], np.float32)
    assert quality.mean_cosine([[3.0, 0.0], [1.0, 1.0]], expected) == pytest.approx((1 + 2**-0.5) / 2)


EXPECTED = np.array([[1, 0], [0, 1], [1, 0], [1, 1]], np.float32)


@pytest.fixture
def asked(places: Places, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which systems were asked; the int8 one of OpenVINO fails, the float32 ones give what is expected."""
    asked: list[str] = []

    def run_cell(places: Places, system: System, setting: Any, **more: Any) -> Answer:
        assert (setting.workload, more["repeats"], more["whole"]) == ("s4", 0, True)
        asked.append(system.name)
        if system.name == "optimum-intel-int8":
            raise EngineError("it said no")
        return answer(vectors=EXPECTED.tolist() if system.exact else [[1, 0.1], [0, 1], [1, 0], [1, 1]])

    monkeypatch.setattr(quality, "run_cell", run_cell)
    places.file("s4", "x").parent.mkdir(parents=True)
    places.file("s4", JUDGED).write_text("[[1], [2], [3], [4]]")
    places.file("s4", JUDGEMENTS).write_text("[1.0, 4.0]")
    np.save(places.file("s4", VECTORS), EXPECTED)
    return asked


def test_every_system_is_judged_once(asked: list[str], places: Places) -> None:
    said: list[str] = []
    quality.judge(places, S4, said.append)
    assert set(asked) == set(systems_of("s4"))
    assert "s4 optimum-intel-int8 is not judged: it said no" in said
    found = quality.quality_of(places, "s4", OURS)
    assert found["cosine"] == pytest.approx((3 + 1.01**-0.5) / 4)
    assert found["Spearman"] == pytest.approx(1.0)
    assert quality.quality_of(places, "s4", "optimum-intel-int8") == {}
    asked.clear()
    quality.judge(places, S4, said.append)
    assert asked == ["optimum-intel-int8"]


def test_float32_that_is_another_network_is_refused(
    asked: list[str], places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(places.file("s4", VECTORS), EXPECTED[::-1])
    with pytest.raises(
        VerificationError, match=r"edgewise-fp32 gave vectors of mean cosine 0.\d+ to PyTorch's, expected"
    ):
        quality.judge(places, S4, print)
    assert quality.quality_of(places, "s4", "edgewise-fp32") == {}


def test_s4_needs_the_judged_pairs(places: Places) -> None:
    with pytest.raises(InputError, match="workload s4 is judged on STS-B: set ASSETS to the folder that holds sts"):
        judged_pairs(places, "dev")


def test_quality_is_plain_json(asked: list[str], places: Places) -> None:
    quality.judge(places, S4, lambda what: None)
    kept = json.loads(quality.quality_file(places, "s4", OURS).read_text())
    assert kept.keys() == set(S4.quality)
