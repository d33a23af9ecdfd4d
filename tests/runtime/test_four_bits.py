"""Shipped checkpoints in four bits, for which nobody trained them: their own verify passes, and finds damage."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgewise
from edgewise.pipeline import export_bundle
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.tolerances import TOLERANCES
from edgewise.runtime.verification import VerificationReport

from ..bundles import Damaged

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
SHIPPED = [
    "captions-mlm",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("captions-lm", "sentiment", "translate-en-de")),
]


@pytest.fixture(scope="module", params=SHIPPED)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int4") / str(request.param)
    export_bundle(CHECKPOINTS / request.param, out, ("cpu",), ("int4",), None, 0.0, lambda *_: None)
    return out


def verified(bundle: Path) -> VerificationReport:
    with edgewise.load(bundle, "cpu", "int4", 1, verify=False) as session:
        return session.verify()


def test_four_bits_pass_their_own_verify(exported: Path) -> None:
    kernels = {choice.kernel for choice in Bundle.open(exported).manifest.variants[0].kernels}
    assert "int4-blocks" in kernels
    report = verified(exported)
    assert report.ok, report.summary()
    assert report.logit_rms > TOLERANCES["int8"].logit_rms, "as near as eight bits: nothing was rounded to four"
    assert "own integers: not recorded, damage within the bounds stays unseen; " in report.summary()


def test_a_matrix_of_other_scales_is_found(exported: Path, tmp_path: Path) -> None:
    damaged = Damaged(exported, tmp_path / "damaged")
    name = next(name for name in sorted(damaged.places("cpu-int4")) if "int4_scale" in name)
    damaged.put("cpu-int4", name, damaged.tensor("cpu-int4", name) * -4)
    assert not verified(damaged.path).ok
