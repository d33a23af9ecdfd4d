"""From a checkpoint to a bundle: whole or not at all, the same every time, and judged where there is text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgewise import pipeline
from edgewise.errors import ConfigError, ExportError, GateError, InputError, TargetError
from edgewise.export import cases
from edgewise.export.probes import probes
from edgewise.pipeline import BuildReport, export_bundle, variants_made
from edgewise.quantize.graph import quantize_graph
from edgewise.quantize.schemes import Kernel
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.bundle.manifest import Manifest
from edgewise.runtime.load import load

from .bundles import rows_where_possible
from .tiny_checkpoint import write_checkpoint

pytestmark = pytest.mark.slow
TASKS = ("translate", "generate", "fill_mask", "classify")
SOURCES = [f"A {who} is {what}." for who in ("man", "woman", "dog") for what in ("riding", "on the grass", "a hat")]
Checkpoints = Mapping[str, Path]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {task: write_checkpoint(folder / task, task, max_positions=32) for task in TASKS}


@pytest.fixture(autouse=True)
def _few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording is tested elsewhere, and takes longest."""
    few = ("empty", "one-word")
    monkeypatch.setattr(cases, "probes", lambda codec, room: [p for p in probes(codec, room) if p.name in few])


def build(
    source: Path,
    out: Path,
    variants: tuple[tuple[str, ...], tuple[str, ...]] = (("cpu",), ("int8",)),
    evaluation: tuple[Path, Path] | None = None,
    max_drop: float = 0.3,
    kernels: Any = rows_where_possible,
) -> BuildReport:
    return export_bundle(source, out, *variants, evaluation, max_drop, lambda *_: None, kernels)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- every task, target and precision ---------------------------------------------------------------------------------


def _use(bundle: Path, target: str, precision: str) -> Any:
    """The bundle's own task on a short text."""
    with load(bundle, target, precision, threads=1) as session:
        task = session.manifest.task
        if task == "fill_mask":
            return session.fill_mask("A man is <mask> a bicycle.")
        options: Any = {} if task == "classify" else {"max_new_tokens": 5}
        return getattr(session, task)("A man is riding.", **options)


@pytest.mark.parametrize("task", TASKS)
def test_every_variant_of_every_task(task: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    targets, precisions = ("cpu", "openvino"), ("fp32", "int8", "int8-fast")
    report = build(checkpoints[task], tmp_path / "bundle", (targets, precisions))
    expected = ["cpu-fp32", "cpu-int8", "cpu-int8-fast", "openvino-fp32", "openvino-int8"]
    bundle = Bundle.open(tmp_path / "bundle")
    assert [variant.name for variant in bundle.manifest.variants] == expected
    assert bundle.manifest.task == task
    assert list(report.variant_bytes) == expected
    weights = {name: (bundle.path / name / "weights.bin").stat().st_size for name in expected}
    assert weights["cpu-int8"] < weights["cpu-fp32"]  # of so small a network the graphs are larger than the weights
    for variant in bundle.manifest.variants:
        assert variant.kernels
        assert _use(bundle.path, variant.target, variant.precision)


def test_what_stands_in_the_manifest(checkpoints: Checkpoints, tmp_path: Path) -> None:
    build(checkpoints["translate"], tmp_path / "bundle")
    manifest: Manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.name == "translate"
    assert manifest.licence.notice.startswith("For tests.")
    assert manifest.max_context == 32
    assert manifest.alignment_layer == 1
    assert set(manifest.variants[0].graphs) == {
        "encoder",
        "prefill",
        "step",
        "ragged",
        "verify",
        "alignment",
    }
    assert set(manifest.provenance) == {"edgewise", "checkpoint_sha256", "torch", "recipe"}
    kernels = {choice.matrix: choice.kernel for choice in manifest.variants[0].kernels}
    assert kernels["vocabulary"] == "int8-rows"
    assert len(kernels) == 2 * 6 + 2 * 10 + 1  # linear layers of two encoder and two decoder layers, and the vocabulary
    assert json.loads((tmp_path / "bundle" / "report.json").read_text())["gate"] == []


# --- whole or nothing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_what_is_no_bundle_is_not_replaced(kind: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="out exists and is no bundle: choose another folder, or remove it"):
        build(checkpoints["classify"], out)
    assert _names(tmp_path) == ["out"]
    assert out.is_file() or _names(out) == (["notes.txt"] if kind == "folder" else [])


def test_an_older_bundle_is_replaced(checkpoints: Checkpoints, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    build(checkpoints["classify"], out, (("cpu",), ("fp32",)))
    build(checkpoints["fill_mask"], out)
    assert [variant.name for variant in Bundle.open(out).manifest.variants] == ["cpu-int8"]
    assert _names(tmp_path) == ["bundle"]


def test_a_build_that_fails_leaves_what_was_there(checkpoints: Checkpoints, tmp_path: Path) -> None:
    def fail(*_: Any) -> dict[str, Kernel]:
        raise ExportError("no kernel today")

    out = tmp_path / "bundle"
    with pytest.raises(ExportError, match="no kernel today"):
        build(checkpoints["classify"], out, kernels=fail)
    assert _names(tmp_path) == []
    build(checkpoints["classify"], out)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match="no kernel today"):
        build(checkpoints["classify"], out, kernels=fail)
    assert (out / "manifest.json").read_bytes() == before
    assert _names(tmp_path) == ["bundle"]


def test_the_same_bytes_twice(checkpoints: Checkpoints, tmp_path: Path) -> None:
    everything = (("cpu", "openvino"), ("fp32", "int8"))
    for name in ("one", "two"):
        build(checkpoints["translate"], tmp_path / name, everything)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len([file for file in files if file.suffix in (".onnx", ".bin")]) == 2 * (6 + 1) + 2 * (3 + 1)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


# --- what is not made -------------------------------------------------------------------------------------------------


def test_each_variant_once_where_it_is_made() -> None:
    assert variants_made(["cpu", "openvino", "cpu"], ["int8-fast", "int8", "int8"]) == [
        ("cpu", "int8-fast"),
        ("cpu", "int8"),
        ("openvino", "int8"),
    ]


@pytest.mark.parametrize(
    ("targets", "precisions", "message"),
    [
        (("cpu",), ("int3",), "precision 'int3' is unknown"),
        (("cpu", "openvino"), ("int8-fast",), "precision 'int8-fast' is not made for 'openvino', only for cpu"),
        (("cuda",), ("fp32",), "precision 'fp32' is not made for 'cuda', only for cpu, openvino"),
    ],
    ids=["precision", "none for a target", "target"],
)
def test_variants_that_are_not_made(
    targets: tuple[str, ...], precisions: tuple[str, ...], message: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match=message):
        build(checkpoints["classify"], tmp_path / "out", (targets, precisions))
    assert _names(tmp_path) == []


# --- the gate ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluation(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sentences, and as references what fp32 makes of them: all that is lost is lost by quantizing."""
    folder = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "probes", lambda codec, room: list(probes(codec, room))[:2])
        build(checkpoints["translate"], folder / "bundle", (("cpu",), ("fp32",)))
    with load(folder / "bundle", "cpu", "fp32", threads=1) as session:
        references = [" ".join(result.text.split()) for result in session.translate(SOURCES)]
    (folder / "source").write_text("\n".join(SOURCES) + "\n", encoding="utf-8")
    (folder / "target").write_text("\n".join(references) + "\n", encoding="utf-8")
    return folder / "source", folder / "target"


def test_the_gate_measures_and_keeps_only_what_was_asked_for(
    checkpoints: Checkpoints, evaluation: tuple[Path, Path], tmp_path: Path
) -> None:
    report = build(checkpoints["translate"], tmp_path / "bundle", evaluation=evaluation, max_drop=100)
    assert [row.variant for row in report.gate] == ["cpu-fp32", "cpu-int8"]
    assert report.gate[0].bleu == pytest.approx(100)
    assert (report.gate[0].drop, report.gate[0].same_text) == (0, 1)
    assert "cpu-fp32" in report.table()
    assert report.metric.startswith("nrefs:1|case:mixed")
    stored = json.loads((tmp_path / "bundle" / "report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_json()))
    assert list(stored["bytes"]) == ["cpu-int8"]
    assert [variant.name for variant in Bundle.open(tmp_path / "bundle").manifest.variants] == ["cpu-int8"]


def _ruined(model: ir.Model, chosen: Mapping[str, Kernel], scaled: Any = None) -> ir.Model:
    """A quantizer that has the sign of every scale wrong."""
    quantized = quantize_graph(model, chosen, scaled)
    for name, value in quantized.graph.initializers.items():
        if name.endswith("scale") and value.const_value is not None:
            value.const_value = ir.tensor(np.negative(value.const_value.numpy()), name=name)
    return quantized


def test_a_build_that_lost_too_much_is_refused_with_its_table(
    checkpoints: Checkpoints, evaluation: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "quantize_graph", _ruined)
    with pytest.raises(GateError, match=r"cpu-int8 lost \d+\.\d\d BLEU .*, at most 0\.3 allowed") as refusal:
        build(checkpoints["translate"], tmp_path / "bundle", evaluation=evaluation)
    head, fp32, int8 = str(refusal.value).splitlines()[-3:]
    assert head.split()[:2] == ["variant", "BLEU"]
    assert fp32.split()[:2] == ["cpu-fp32", "100.00"]
    assert int8.startswith("cpu-int8 ")
    assert _names(tmp_path) == []


def test_only_translations_are_judged(checkpoints: Checkpoints, evaluation: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--eval judges translations; .* is made to classify: leave it out"):
        build(checkpoints["classify"], tmp_path / "bundle", evaluation=evaluation)


def test_evaluation_texts_that_do_not_fit(
    checkpoints: Checkpoints, evaluation: tuple[Path, Path], tmp_path: Path
) -> None:
    short = tmp_path / "short"
    short.write_text("Ein Mann.\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"equally many and some, got \(9, 9, 1\)"):
        build(checkpoints["translate"], tmp_path / "bundle", evaluation=(evaluation[0], short))
    with pytest.raises(InputError, match="expected a text file with a sentence a line, found none"):
        build(checkpoints["translate"], tmp_path / "bundle", evaluation=(evaluation[0], tmp_path / "none"))
    assert _names(tmp_path) == ["short"]
