"""Which arithmetic an engine is found to have, and where another one than was recorded is a fault."""

from __future__ import annotations

import platform
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgewise.runtime import own_integers
from edgewise.runtime.bundle.quantized import QuantizedReference, SteadyCase, SteadyStep, digest
from edgewise.runtime.engines import saturation
from edgewise.runtime.own_integers import OwnIntegersReplay
from edgewise.runtime.tolerances import STEADY_FEWEST, STEADY_SHARE, STEADY_STEP
from edgewise.runtime.verification import OwnIntegers

STEPS = 20
LOGITS = np.random.default_rng(0).standard_normal((STEPS, 40)).astype(np.float32)
OTHER = LOGITS + np.float32(0.05) * np.random.default_rng(1).standard_normal(LOGITS.shape).astype(np.float32)
THIRD = LOGITS + np.float32(0.05) * np.random.default_rng(2).standard_normal(LOGITS.shape).astype(np.float32)


class _Engine:
    def __init__(self, device: str = "CPU") -> None:
        self.device = device

    def describe(self) -> dict[str, Any]:
        return {"device": self.device}


def _replay(logits: Any, engine: Any = None, steps: int = STEPS, rounds: bool = True) -> OwnIntegers:
    """The integers give ``LOGITS``, with float32 activations ``OTHER``."""
    recorded = tuple(
        SteadyStep(index=i, int8=tuple(digest(LOGITS[i], 3)), float32=tuple(digest(OTHER[i], 3))) for i in range(steps)
    )
    case = SteadyCase(name="one", steps=recorded)
    replay = OwnIntegersReplay(
        QuantizedReference(variant="cpu-int8", checkpoint_sha256="0" * 64, cases=(case,)), rounds
    )
    for i, row in enumerate(logits):
        replay.scores("by steps", "one", i, row, 3)
        replay.scores("by steps", "two", i, row, 3)  # a case without steady steps
    return replay.found(engine or _Engine())


@pytest.fixture(autouse=True)
def _measured_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(saturation, "_largest_sum", lambda: 64 * 255 * 127)


@pytest.mark.parametrize(("logits", "arithmetic"), [(LOGITS, "int8"), (OTHER, "float32")], ids=["int8", "float32"])
def test_either_recorded_arithmetic_passes(logits: Any, arithmetic: str) -> None:
    found = _replay(logits)
    assert (found.arithmetic, found.near, found.steps, found.fault) == (arithmetic, STEPS, STEPS, None)
    assert f"with {arithmetic} activations: 20 of 20 steady steps" in str(found)
    assert found.largest < STEADY_STEP


def test_a_third_one_is_a_fault_where_products_are_exact() -> None:
    found = _replay(THIRD)
    assert (found.arithmetic, found.near) == ("other", 0)
    expected = "0 of 20 steady steps give what the variant's integers give within 0.001, expected at least 50%"
    assert expected in str(found.fault)


@pytest.mark.parametrize("where", ["arm64", "no VNNI", "GPU", "NPU"])
def test_a_third_one_is_reported_where_nothing_was_measured(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "arm64":
        monkeypatch.setattr(platform, "machine", lambda: "arm64")
    if where == "no VNNI":
        monkeypatch.setattr(saturation, "_largest_sum", lambda: 32 * 32767)
    found = _replay(THIRD, _Engine(where if where.endswith("PU") else "CPU"))
    assert (found.arithmetic, found.required, found.fault) == ("other", False, None)
    assert "another arithmetic than was recorded" in str(found)


def test_some_steps_may_differ_and_half_may_not() -> None:
    allowed = int(STEPS * (1 - STEADY_SHARE))
    assert _replay(np.concatenate([THIRD[:allowed], LOGITS[allowed:]])).arithmetic == "int8"
    assert _replay(np.concatenate([THIRD[: allowed + 1], LOGITS[allowed + 1 :]])).arithmetic == "other"


@pytest.mark.parametrize(("one_pass", "by_steps"), [(LOGITS, THIRD), (THIRD, LOGITS)], ids=["by steps", "one pass"])
def test_each_way_of_asking_is_judged_by_itself(one_pass: Any, by_steps: Any) -> None:
    """A cache that is wrong does not hide behind a pass without one."""
    steps = tuple(
        SteadyStep(index=i, int8=tuple(digest(LOGITS[i], 3)), float32=tuple(digest(OTHER[i], 3))) for i in range(STEPS)
    )
    case = SteadyCase(name="one", steps=steps)
    replay = OwnIntegersReplay(QuantizedReference(variant="cpu-int8", checkpoint_sha256="0" * 64, cases=(case,)), True)
    for i in range(STEPS):
        replay.scores("one pass", "one", i, one_pass[i], 3)
        replay.scores("by steps", "one", i, by_steps[i], 3)
    found = replay.found(_Engine())  # type: ignore[arg-type]
    assert (found.arithmetic, found.near, found.steps) == ("other", 0, STEPS)
    assert found.fault is not None


def test_where_nothing_is_rounded_no_step_may_differ() -> None:
    assert _replay(OTHER, rounds=False).arithmetic == "float32"
    found = _replay(np.concatenate([THIRD[:1], OTHER[1:]]), rounds=False)
    assert (found.arithmetic, found.near) == ("other", STEPS - 1)
    assert "19 of 20 steady steps" in str(found.fault)
    assert "expected at least 100%" in str(found.fault)
    assert _replay(np.concatenate([THIRD[:1], LOGITS[1:]]), rounds=False).arithmetic == "int8"


def test_numbers_that_are_none_are_not_near() -> None:
    assert _replay(np.full_like(LOGITS, np.nan)).near == 0


@pytest.mark.parametrize("steps", [1, STEADY_FEWEST - 1])
def test_of_a_few_steps_nothing_is_concluded(steps: int) -> None:
    found = _replay(THIRD, steps=steps)
    assert (found.arithmetic, found.fault) == ("undecided", None)
    said = f"own integers: undecided, {steps} steady steps are too few, damage within the bounds stays unseen"
    assert str(found) == said


def test_class_scores_are_compared_as_they_are() -> None:
    step = SteadyStep(index=0, int8=(0.5, -1.0), float32=(0.4, -1.0))
    case = SteadyCase(name="one", steps=(step,))
    replay = OwnIntegersReplay(QuantizedReference(variant="cpu-int8", checkpoint_sha256="0" * 64, cases=(case,)), True)
    for _ in range(STEADY_FEWEST):
        replay.classes("alone", "one", 0, np.array([0.5, -1.0005], np.float32))
        replay.classes("alone", "two", 0, np.array([9.0, 9.0], np.float32))
    found = replay.found(_Engine())  # type: ignore[arg-type]
    assert (found.arithmetic, found.steps) == ("int8", STEADY_FEWEST)
    assert found.largest == pytest.approx(5e-4, rel=1e-3)


def test_nothing_is_asked_of_the_processor_for_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "_largest_sum", lambda: pytest.fail("asked"))
    assert not own_integers.must_agree(_Engine("NPU"), True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "papers_own", "required"),
    [("openvino", True, True), ("openvino", False, False), ("onnxruntime", False, True)],
)
def test_openvino_may_round_other_networks_by_its_own_rules(engine: str, papers_own: bool, required: bool) -> None:
    opened = SimpleNamespace(describe=lambda: {"engine": engine, "device": "CPU"})
    assert own_integers.must_agree(opened, papers_own) is required  # type: ignore[arg-type]
