"""Where no step is steady, not all cases are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise.export import quantized_cases
from edgewise.export.quantized_cases import FRUITLESS, record_quantized
from edgewise.models.checkpoint import load_checkpoint
from edgewise.runtime.bundle.cases import Case, Classified, ReferenceCases

from ..tiny_checkpoint import write_checkpoint


@pytest.mark.parametrize(("steady", "asked"), [(-1.0, FRUITLESS), (1e-3, FRUITLESS + 4)], ids=["none", "some"])
def test_a_network_without_steady_steps_is_asked_a_few_cases(
    steady: float, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "tiny", "classify", max_positions=96))
    names = checkpoint.model.config.class_names
    classified = Classified(logits=(1.0,) + (0.0,) * (len(names) - 1), label=names[0])
    cases = ReferenceCases(
        kind="classify",
        checkpoint_sha256="0" * 64,
        torch="0",
        seed=None,
        logit_ids=(),
        cases=tuple(
            Case(name=f"text-{i}", text=None, input_ids=(5 + i, 2), classified=classified) for i in range(FRUITLESS + 4)
        ),
    )
    monkeypatch.setattr(quantized_cases, "STEADY", steady)
    done: list[int] = []
    found = record_quantized(checkpoint, "cpu", "int8", {}, {}, cases, lambda i, _: done.append(i))
    assert len(done) == asked
    assert bool(found.cases) == (steady > 0)
