"""Real bundles that were tampered with, their hashes made right again: the replay alone has to find it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgewise.models.tokenizer import train_bpe
from edgewise.pipeline import export_bundle
from edgewise.quantize.graph import VOCABULARY, matrices
from edgewise.quantize.schemes import Kernel
from edgewise.runtime.engines import openvino
from edgewise.runtime.load import load
from edgewise.runtime.verification import VerificationReport

from ..bundles import Damaged, record_few_cases, tiny_bundle
from ..tiny_checkpoint import LINES, VOCAB_SIZE
from .test_verify import permuted

VARIANTS = ("cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8")
TRANSLATOR = Path(__file__).resolve().parents[2] / "checkpoints" / "translate-en-de"
FP32 = ("cpu-fp32", "openvino-fp32")
INT8 = ("cpu-int8", "openvino-int8")


@pytest.fixture
def bundle() -> Path:
    """A tiny translator in all four variants."""
    return tiny_bundle("translate")


@pytest.fixture
def damaged(bundle: Path, tmp_path: Path) -> Damaged:
    return Damaged(bundle, tmp_path / "bundle")


def replay(bundle: Path, variant: str) -> VerificationReport:
    target, _, precision = variant.partition("-")
    with load(bundle, target, precision, threads=1) as session:
        return session.verify()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", ["translate", "generate", "fill_mask", "classify"])
def test_what_was_exported_passes(task: str, variant: str) -> None:
    report = replay(tiny_bundle(task), variant)
    assert report.ok, report.table()


@pytest.mark.parametrize("variant", FP32)
@pytest.mark.parametrize("name", ["embedding.weight", "encoder.layers.1.feed_forward.inner.weight"])
def test_a_few_damaged_weights_are_found(damaged: Damaged, variant: str, name: str) -> None:
    values = damaged.tensor(variant, name)
    places = np.random.default_rng(3).choice(len(values), 4, replace=False)
    values[places] *= -1.5
    damaged.put(variant, name, values)
    assert not replay(damaged.path, variant).ok


@pytest.mark.parametrize("variant", INT8)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_few_flipped_bits_in_integers_are_found(damaged: Damaged, variant: str, seed: int) -> None:
    damaged.flip(variant, 4, seed)
    report = replay(damaged.path, variant)
    assert any("steady steps give what the variant's integers give" in fault for fault in report.faults)


@pytest.mark.parametrize("task", ["translate", "generate", "fill_mask", "classify"])
@pytest.mark.parametrize("variant", INT8)
def test_integers_give_what_was_recorded(task: str, variant: str) -> None:
    own = replay(tiny_bundle(task), variant).own_integers
    assert own is not None
    assert own.arithmetic == "int8"
    assert own.share >= 0.9
    assert own.median <= 2e-5


def test_an_engine_that_leaves_activations_as_they_are(damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenVINO does where the processor has no int8 products: recognised, and as sharp."""
    monkeypatch.setattr(openvino, "_INT8_GROUP", "0")
    report = replay(damaged.path, "openvino-int8")
    assert report.ok, report.table()
    assert report.own_integers is not None
    assert report.own_integers.arithmetic == "float32"
    damaged.flip("openvino-int8", 4, 7)
    report = replay(damaged.path, "openvino-int8")
    assert any("steady steps give what the variant's integers give" in fault for fault in report.faults)


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_models_tokenizer_is_found(damaged: Damaged, variant: str) -> None:
    other = train_bpe(["Zwei Hunde laufen.", "Drei Katzen schlafen im Haus."] * 4, VOCAB_SIZE)
    damaged.write("tokenizer.json", other.to_str().encode())
    report = replay(damaged.path, variant)
    assert any("tokenizer: the text becomes" in fault for fault in report.faults)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_permuted_vocabulary_is_found(damaged: Damaged, variant: str) -> None:
    right = train_bpe(LINES, VOCAB_SIZE).to_str().encode()
    damaged.write("tokenizer.json", permuted(right, [(321, 322)]))
    report = replay(damaged.path, variant)
    assert any("tokenizer: the text becomes" in fault for fault in report.faults)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_an_int8_graph_under_an_fp32_manifest_is_found(damaged: Damaged, target: str) -> None:
    damaged.pretend(f"{target}-int8", "fp32")
    report = replay(damaged.path, f"{target}-fp32")
    assert any("logits differ by" in fault for fault in report.faults)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_swapped_layers_are_found(damaged: Damaged, variant: str, stack: str) -> None:
    assert damaged.swap(variant, f"{stack}.layers.0.", f"{stack}.layers.1.") >= 4
    report = replay(damaged.path, variant)
    assert not report.ok


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tampered_bundle_passes_every_other_check(damaged: Damaged, variant: str) -> None:
    damaged.fit()
    assert replay(damaged.path, variant).ok


@pytest.fixture
def embedded(root: Path, tmp_path: Path) -> Damaged:
    """The shipped int8 translator."""
    source = root / "runtime" / "embedded" / "translate-en-de"
    if not source.is_dir():
        pytest.skip("the package was built without its bundle")
    return Damaged(source, tmp_path / "embedded")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["cpu-int8", "openvino-int8"])
def test_the_shipped_bundle_passes(embedded: Damaged, variant: str) -> None:
    report = replay(embedded.path, variant)
    assert report.ok, report.summary()
    assert len(report.cases) >= 36
    assert report.own_integers is not None
    assert report.own_integers.share >= 0.9
    assert report.own_integers.steps >= 80


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("variant", INT8)
def test_the_shipped_bundle_shows_a_few_flipped_bits(embedded: Damaged, variant: str, seed: int) -> None:
    embedded.flip(variant, 4, seed)
    assert any("steady steps" in fault for fault in replay(embedded.path, variant).faults)


def _blocks(graphs: dict[str, ir.Model], precision: str, target: str) -> dict[str, Kernel]:
    return dict.fromkeys(
        [VOCABULARY, *(name for graph in graphs.values() for _, name, _ in matrices(graph))], "int8-blocks"
    )


@pytest.mark.slow
def test_onnxruntime_may_leave_activations_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where it has no int8 kernel for MatMulNBits."""
    monkeypatch.setattr("edgewise.pipeline.record_cases", record_few_cases)
    export_bundle(TRANSLATOR, tmp_path / "made", ["cpu"], ["int8"], None, 0.3, lambda *_: None, kernels=_blocks)
    embedded = Damaged(tmp_path / "made", tmp_path / "changed")
    as_made = replay(embedded.path, "cpu-int8").own_integers
    assert as_made is not None
    assert as_made.arithmetic == "int8"
    for file in (embedded.path / "cpu-int8").glob("*.onnx"):
        graph = onnx.load(file, load_external_data=False)
        for node in graph.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 0
        file.write_bytes(graph.SerializeToString())
    embedded.fit()
    report = replay(embedded.path, "cpu-int8")
    assert report.ok, report.summary()
    assert report.own_integers is not None
    assert report.own_integers.arithmetic == "float32"


def _scale(values: np.ndarray) -> None:
    values[:: len(values) // 3] *= 4


@pytest.mark.parametrize(
    ("names", "damage"),
    [(".scale", _scale), ("norm.weight", _scale)],
    ids=["scales", "norms"],
)
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_the_shipped_bundle_shows_damage(
    embedded: Damaged, target: str, names: str, damage: Callable[[np.ndarray], None]
) -> None:
    variant = f"{target}-int8"
    name = next(name for name in sorted(embedded.places(variant)) if name.endswith(names))
    values = embedded.tensor(variant, name)
    damage(values)
    embedded.put(variant, name, values)
    assert not replay(embedded.path, variant).ok
