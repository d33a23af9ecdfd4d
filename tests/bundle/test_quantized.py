"""The quantized reference: what is written is read back, and what does not belong to variant and cases is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.errors import BundleFormatError
from edgewise.runtime.bundle import Bundle, quantized
from edgewise.runtime.bundle.cases import ReferenceCases
from edgewise.runtime.bundle.quantized import QuantizedReference, SteadyCase, SteadyStep

VALUES = tuple(float(i) for i in range(18))


def _step(index: int, count: int = 18) -> SteadyStep:
    return SteadyStep(index=index, int8=VALUES[:count], float32=VALUES[:count])


def _reference(name: str = "one-word", *steps: SteadyStep, checkpoint: str = "0" * 64) -> QuantizedReference:
    case = SteadyCase(name=name, steps=steps or (_step(0), _step(1)))
    return QuantizedReference(variant="cpu-int8", checkpoint_sha256=checkpoint, cases=(case,))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    quantized.write_quantized(tmp_path, _reference())
    return tmp_path / "reference" / "cpu-int8.json"


def test_reads_back(file: Path) -> None:
    assert quantized.read_quantized(file) == _reference()
    assert quantized.rounded(np.array([1.23456789, -0.000001])) == (1.23457, -0.0)


def test_a_digest_by_hand() -> None:
    logits = np.zeros(40, np.float32)
    logits[[1, 17]] = [np.log(3), np.log(2)]  # both in fold 1: plus, minus
    sum_log, log_prob, *folds = quantized.digest(logits, 1)
    assert sum_log == pytest.approx(np.log(38 + 3 + 2))
    assert log_prob == pytest.approx(np.log(3 / 43))
    assert folds == pytest.approx([0, np.log(3) - np.log(2), *[0] * 14])


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer format": (lambda d: d.update(format=2), "format is 2, expected 1 to 1"),
    "missing field": (lambda d: d.pop("variant"), "the whole lacks fields 'variant'"),
    "odd variant": (lambda d: d.update(variant="../x"), "variant is '../x', expected text"),
    "case twice": (lambda d: d.update(cases=d["cases"] * 2), "case one-word is given 2 times"),
    "no steps": (lambda d: d["cases"][0].update(steps=[]), r"steps is a list of 0, expected 1 to"),
    "steps fall": (lambda d: d["cases"][0]["steps"].reverse(), "the steps of case one-word must rise in index"),
    "negative step": (lambda d: d["cases"][0]["steps"][0].update(index=-1), "index is -1, expected 0 to"),
    "no number": (lambda d: d["cases"][0]["steps"][0].update(int8=[]), "int8 is a list of 0, expected 1 to 10000"),
    "huge number": (
        lambda d: d["cases"][0]["steps"][0]["int8"].__setitem__(0, 1e12),
        r"int8\[0\] is 1000000000000",
    ),
    "unlike lengths": (
        lambda d: d["cases"][0]["steps"][0]["int8"].pop(),
        "17 int8 values beside 18 float32 values",
    ),
}


@pytest.mark.parametrize(("change", "message"), TAMPERED.values(), ids=TAMPERED.keys())
def test_tampered(file: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    data = json.loads(file.read_bytes())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(BundleFormatError, match=message):
        quantized.read_quantized(file)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (_reference(checkpoint="1" * 64), "checkpoint_sha256 is 1+, expected 0+ as in reference/cases.json"),
        (_reference("two-words"), "case two-words is not in reference/cases.json"),
        (_reference("one-word", _step(2)), "step 2 of case one-word is beyond its 2"),
        (_reference("one-word", _step(0, 17)), "case one-word has a step without its 18 values"),
    ],
    ids=["checkpoint", "case", "step", "values"],
)
def test_of_other_cases(reference: ReferenceCases, own: QuantizedReference, message: str) -> None:
    _reference().check_cases(reference, "x.json")
    with pytest.raises(BundleFormatError, match=f"x.json: {message}"):
        own.check_cases(reference, "x.json")


def test_an_int8_variant_needs_one(toy: Any) -> None:
    def to_int8(data: dict[str, Any]) -> None:
        data["variants"][0].update(precision="int8", folder="cpu-int8")

    (toy.path / "cpu-fp32").rename(toy.path / "cpu-int8")
    toy.edit(to_int8)
    toy.rehash()
    with pytest.raises(BundleFormatError, match=r"files lacks reference/cpu-int8\.json"):
        Bundle.open(toy.path)
    quantized.write_quantized(toy.path, _reference())
    toy.rehash()
    bundle = Bundle.open(toy.path)
    assert bundle.quantized(bundle.manifest.variants[0], bundle.cases()) == _reference()
    quantized.write_quantized(toy.path, dataclasses.replace(_reference(), variant="openvino-int8"))
    (toy.path / "reference" / "openvino-int8.json").rename(toy.path / "reference" / "cpu-int8.json")
    with pytest.raises(BundleFormatError, match="variant is 'openvino-int8', expected 'cpu-int8'"):
        bundle.quantized(bundle.manifest.variants[0], bundle.cases())


def test_float32_has_none(toy: Any) -> None:
    bundle = Bundle.open(toy.path)
    assert bundle.quantized(bundle.manifest.variants[0], bundle.cases()) is None
