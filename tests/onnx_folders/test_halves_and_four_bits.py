"""Graphs in half precision and in four bits, as transformers.js calls them, made by ONNX Runtime's own converters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgewise.cli import main
from edgewise.errors import CheckpointError
from edgewise.export.onnx_folder.files import is_onnx_folder
from edgewise.export.onnx_folder.halves import widened
from edgewise.export.onnx_folder.reading import read_graph
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.load import load
from edgewise.runtime.session import Session

from .exported import GOLDENS, bundle, copied, expected, export

NAMES = {"llama": ("model",), "gpt2": ("model",), "bert-classify": ("model",), "bert-embed": ("model",)}
NAMES |= {"marian": ("encoder_model", "decoder_model", "decoder_with_past_model")}
NAMES |= {"t5": ("encoder_model", "decoder_model_merged")}
Convert = Callable[[onnx.ModelProto], onnx.ModelProto]


def half(keep_io: bool) -> Convert:
    return lambda model: convert_float_to_float16(model, keep_io_types=keep_io, disable_shape_infer=True)


def four_bits(model: onnx.ModelProto, level: int = 0) -> onnx.ModelProto:
    quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, accuracy_level=level)
    quantizer.process()
    made: onnx.ModelProto = quantizer.model.model
    assert any(node.op_type == "MatMulNBits" for node in made.graph.node)
    return made


CONVERT: dict[str, Convert] = {
    "_fp16": half(True),
    "_q4": four_bits,
    "_q4f16": lambda model: half(True)(four_bits(model)),
}


def converted(name: str, folder: Path, suffix: str, convert: Convert | None = None, keep: bool = False) -> Path:
    """A golden folder whose graphs are converted; with ``keep`` beside those in float32."""
    made = copied(name, folder)
    for graph in NAMES[name]:
        file = made / f"{graph}.onnx"
        file = file if file.is_file() else made / "onnx" / file.name
        onnx.save((convert or CONVERT[suffix])(onnx.load(file)), file.with_name(f"{graph}{suffix}.onnx"))
        if not keep:
            file.unlink()
    return made


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Weights and constants, those of branches too."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == onnx.AttributeProto.GRAPH:
            yield from tensors(attribute.g)


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """In float32, with the numbers that float16 can hold, as the converter takes them."""
    for tensor in tensors(model.graph):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            numbers = onnx.numpy_helper.to_array(tensor).clip(-1e4, 1e4).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
    return model


def answers(session: Session, name: str) -> list[list[float]]:
    """Numbers for each of the golden folder's texts: of its classes, its vector, or the words of a fixed text."""
    texts = [row["text"] for row in expected(name)]
    if name == "bert-classify":
        return [list(found.probabilities.values()) for found in session.classify(texts)]
    if name == "bert-embed":
        return [found.vector.tolist() for found in session.embed(texts)]
    if session.manifest.task == "translate":
        return [list(found.token_log_probs) for found in session.score(texts, ["a man rides"] * len(texts))]
    return [list(found.token_log_probs) for found in session.score(texts)]


def check_close(found: list[list[float]], known: list[list[float]], atol: float) -> None:
    for row, other in zip(found, known, strict=True):
        np.testing.assert_allclose(row, other, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (name, ours) for name in NAMES for ours in (True, False) if not (name == "t5" and ours)
    ],  # whose branches it loses
)
def test_half_precision_is_made_wide(name: str, ours: bool, tmp_path: Path) -> None:
    """It gives what a float32 graph with the same weights gives, and the bundle says what became of it."""
    half_made = export(converted(name, tmp_path / "half", "_fp16", half(ours)), tmp_path / "b", ("cpu",))
    same = export(converted(name, tmp_path / "same", "", rounded, keep=True), tmp_path / "same-b", ("cpu",))
    with load(half_made, threads=1) as session, load(same, threads=1) as other:
        assert session.variant.precision == "fp32"
        check_close(answers(session, name), answers(other, name), 2e-5)
        assert session.verify().ok
        files = ", ".join(f"{graph}_fp16.onnx" for graph in NAMES[name])
        provenance = session.manifest.provenance
        assert provenance["widened"] == f"float16 of {files} became float32"
        assert "as exported, float16 made float32, run without a cache" in provenance["reference"]
    for file in (half_made / "cpu-fp32").glob("*.onnx"):
        graph = onnx.load(file, load_external_data=False).graph
        kinds = [t.data_type for t in graph.initializer] + [
            a.i for n in graph.node for a in n.attribute if a.name == "to"
        ]
        assert kinds and onnx.TensorProto.FLOAT16 not in kinds


@pytest.mark.parametrize("suffix", ["_q4", "_q4f16"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "t5"])  # whose branches stay as they are
def test_four_bits_are_int4(name: str, suffix: str, tmp_path: Path) -> None:
    """Its reference are the graphs themselves, and beside it float32 ones that are there; both engines where one is."""
    made = export(converted(name, tmp_path, suffix), tmp_path / "b")
    for target in [variant.target for variant in Bundle.open(made).manifest.variants]:
        with load(made, target, threads=1) as session:
            assert session.variant.precision == "int4"
            assert {choice.kernel for choice in session.variant.kernels} == {"int4-weights"}
            report = session.verify()
            assert report.ok, report.summary()


@pytest.mark.parametrize("symmetric", [True, False])
def test_embeddings_of_four_bits(symmetric: bool, tmp_path: Path) -> None:
    """Rows that are looked up in them, and zero points beside the scales."""

    def convert(model: onnx.ModelProto) -> onnx.ModelProto:
        axes = (("MatMul", 0), ("Gather", 1))
        quantizer = MatMulNBitsQuantizer(
            model,
            block_size=16,
            is_symmetric=symmetric,
            op_types_to_quantize=tuple(op for op, _ in axes),
            quant_axes=axes,
        )
        quantizer.process()
        made: onnx.ModelProto = quantizer.model.model
        assert any(node.op_type == "GatherBlockQuantized" for node in made.graph.node)
        return made

    made = export(converted("llama", tmp_path, "_q4", convert), tmp_path / "b")
    for target in ("cpu", "openvino"):
        with load(made, target, "int4", threads=1) as session:
            assert session.verify().ok


def test_float32_goes_before_half_precision_and_is_the_reference_of_four_bits(tmp_path: Path) -> None:
    folder = converted("llama", tmp_path / "a", "_q4", lambda model: four_bits(model, level=4), keep=True)
    onnx.save(half(True)(onnx.load(folder / "model.onnx")), folder / "model_fp16.onnx")
    made = export(folder, tmp_path / "b", ("cpu",))
    opened = Bundle.open(made)
    assert [v.name for v in opened.manifest.variants] == ["cpu-fp32", "cpu-int4"]
    assert opened.manifest.provenance["reference"].startswith("model.onnx as exported, run without")
    assert "widened" not in opened.manifest.provenance
    kernels = opened.variant("cpu", "int4").kernels
    assert {choice.kernel for choice in kernels} == {"int4-blocks"} and {c.shape for c in kernels} >= {(16, 24)}
    with load(made, "cpu", "int4", threads=1) as four, load(bundle("llama"), "cpu", threads=1) as whole:
        found, known = answers(four, "llama"), answers(whole, "llama")
        assert max(np.abs(np.subtract(a, b)).max() for a, b in zip(found, known, strict=True)) > 1e-3
        assert four.verify().positions > 20


def test_what_is_made_wide_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = converted("bert-classify", tmp_path / "a", "_fp16")
    assert main(["export", str(folder), "-o", str(tmp_path / "b"), "--target", "cpu"]) == 0
    assert "float16 of model_fp16.onnx became float32" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "b")]) == 0
    assert "widened: float16 of model_fp16.onnx became float32" in capsys.readouterr().out


def test_a_wide_graph_is_left_alone() -> None:
    assert not widened(read_graph(GOLDENS / "llama" / "model.onnx"))


def test_four_bit_floats_are_refused(tmp_path: Path) -> None:
    folder = converted("llama", tmp_path, "_bnb4", lambda model: model)
    assert is_onnx_folder(folder)
    with pytest.raises(CheckpointError, match=r"has model_bnb4.onnx with four-bit floats \(NF4 or FP4\), which no"):
        export(folder, tmp_path / "b")
