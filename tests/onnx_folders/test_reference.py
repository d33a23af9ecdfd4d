"""The reference of a folder of graphs: its searches against the original library, and what it refuses to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.errors import ExportError
from edgewise.export.onnx_folder import merged, reference
from edgewise.export.onnx_folder.reading import read_graph
from edgewise.export.onnx_folder.reference import GraphRecorder, NaiveGraphs
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.tokenizer import Tokenizer

from .exported import GOLDENS, bundle, expected


def naive(name: str, folder: Path) -> NaiveGraphs:
    """The graphs of a golden folder under their own names."""
    if name == "llama":
        return NaiveGraphs({"decoder": read_graph(GOLDENS / name / "model.onnx")}, folder / "g", (), 304)
    first, _ = merged.taken_apart(read_graph(GOLDENS / name / "decoder_model_merged.onnx"), name)
    graphs = {"encoder": read_graph(GOLDENS / name / "encoder_model.onnx"), "decoder": first}
    return NaiveGraphs(graphs, folder / "g", (), 304)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_greedy_tokens_are_the_librarys(name: str, tmp_path: Path) -> None:
    opened = Bundle.open(bundle(name))
    recorder = GraphRecorder(
        naive(name, tmp_path), opened.manifest.model, Tokenizer.open(opened.tokenizer_path), opened.manifest.max_context
    )
    for row in expected(name):
        greedy, beam = recorder.searched(recorder.spec, tuple(row["ids"]), 8)
        assert list(greedy.tokens) == row["greedy"]
        found = np.array(greedy.logits)[:, ::16]
        np.testing.assert_allclose(found, row["logits"], atol=1e-4, rtol=1e-4)
        assert beam.score >= greedy.score - 1e-4 or len(beam.tokens) != len(greedy.tokens)


def test_graphs_that_no_engine_opens(tmp_path: Path) -> None:
    model = read_graph(GOLDENS / "llama" / "model.onnx")
    bad = ir.node("Erf", [model.graph.inputs[0]])  # of integers, which no kernel takes
    bad.outputs[0].name = "bad"
    model.graph.append(bad)
    model.graph.outputs.append(bad.outputs[0])
    bad.outputs[0].type, bad.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape(["a", "b"])
    with pytest.raises(ExportError, match=r"ONNX Runtime .* could not open decoder.onnx: .*: export the folder again"):
        NaiveGraphs({"decoder": model}, tmp_path / "g", (), 304)


def test_graphs_that_fail_when_they_run(tmp_path: Path) -> None:
    graphs = naive("llama", tmp_path)
    with pytest.raises(ExportError, match=r"ONNX Runtime .* could not run the decoder: .*: export the folder again"):
        graphs.next_logits(None, [[10**6]])


def test_an_input_that_nothing_gives(tmp_path: Path) -> None:
    model = read_graph(GOLDENS / "llama" / "model.onnx")
    next(value for value in model.graph.inputs if value.name == "position_ids").name = "ages"
    graphs = NaiveGraphs({"decoder": model}, tmp_path / "g", (), 304)
    with pytest.raises(ExportError, match="the graph reads ages, which nothing here gives: export the checkpoint"):
        graphs.next_logits(None, [[1, 2]])


def test_long_texts_are_cut_where_logits_would_be_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Bundle.open(bundle("llama"))
    codec = Tokenizer.open(opened.tokenizer_path)
    recorder = GraphRecorder(naive("llama", tmp_path), opened.manifest.model, codec, 28)
    monkeypatch.setattr(reference, "_MOST_LOGITS", 5 * 304 * 10)
    monkeypatch.setattr(reference, "SHORTEST_ROOM", 1)
    assert max(len(codec.encode(probe.text)) for probe in recorder.asked() if probe.text) == 10
