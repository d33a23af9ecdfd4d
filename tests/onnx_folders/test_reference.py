"""The reference of a folder of graphs: its searches against the original library, and what it refuses to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgewise.errors import ExportError
from edgewise.export import effort
from edgewise.export.onnx_folder import merged, reference
from edgewise.export.onnx_folder.reading import read_graph
from edgewise.export.onnx_folder.reference import LATER, GraphRecorder, NaiveGraphs
from edgewise.export.onnx_folder.searches import Search, _best_places
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.load import load
from edgewise.runtime.tokenizer import Tokenizer

from .exported import ALONE, DECODERS, GOLDENS, bundle, expected, export


def naive(name: str, folder: Path) -> NaiveGraphs:
    """The graphs of a golden folder under their own names."""
    place = GOLDENS / name / "onnx" if (GOLDENS / name / "onnx").is_dir() else GOLDENS / name
    if name in ALONE:
        return NaiveGraphs({"decoder": read_graph(place / "model.onnx")}, folder / "g", (), 304)
    if (place / "decoder_model_merged.onnx").is_file():
        first, later = merged.taken_apart(read_graph(place / "decoder_model_merged.onnx"), name)
    else:
        first, later = (read_graph(place / f"decoder{past}_model.onnx") for past in ("", "_with_past"))
    graphs = {"encoder": read_graph(place / "encoder_model.onnx"), "decoder": first, LATER: later}
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


@pytest.mark.parametrize("name", DECODERS)
def test_searches_through_the_graphs_own_cache_find_what_naive_ones_do(name: str, tmp_path: Path) -> None:
    graphs, spec = naive(name, tmp_path), Bundle.open(bundle(name)).manifest.model
    for row in expected(name):
        ids = tuple(row["ids"])
        states = graphs.encode(ids, [0] * len(ids))["last_hidden_state"] if spec.encoder else None
        search = Search(graphs, states, spec.decoder_prompt if spec.encoder else ids, 8, spec.end_id)
        greedy, beam, known, best = search.cached_greedy(), search.cached_beam(), search.greedy(), search.beam()
        assert greedy is not None
        assert (greedy.tokens, beam.tokens) == (known.tokens, best.tokens)
        np.testing.assert_allclose(greedy.logits, known.logits, atol=1e-4)
        np.testing.assert_allclose(beam.token_log_probs, best.token_log_probs, atol=1e-4)
        assert greedy.decision_gap == pytest.approx(known.decision_gap, abs=1e-4)
        assert beam.decision_gap == pytest.approx(best.decision_gap, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "marian"])
def test_a_network_too_large_to_be_read_again_at_every_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked through its cache, and the bundle says so."""
    monkeypatch.setattr(effort, "EFFORT", 1e6)
    made = export(GOLDENS / name, tmp_path / "b", ("cpu",))
    whole, asked = (Bundle.open(place).cases().cases for place in (bundle(name), made))
    assert [case.name for case in asked] == [case.name for case in whole]
    with load(made, threads=1) as session:
        reference = session.manifest.provenance["reference"]
        assert "as exported, searched through their own cache and read without in ONNX Runtime" in reference
        assert session.verify().ok


def test_where_the_cache_would_choose_otherwise_the_naive_search_decides(tmp_path: Path) -> None:
    class Wavers(NaiveGraphs):
        """With a past its last token is the likeliest."""

        def decode(self, states: Any, ids: Any, past: Any) -> Any:
            logits, after = super().decode(states, ids, past)
            logits[..., -1] += 100.0 if past else 0.0
            return logits, after

    graphs = Wavers({"decoder": read_graph(GOLDENS / "llama" / "model.onnx")}, tmp_path / "g", (), 304)
    opened = Bundle.open(bundle("llama"))
    recorder = GraphRecorder(graphs, opened.manifest.model, Tokenizer.open(opened.tokenizer_path), 28)
    recorder.cached = True
    row = expected("llama")[0]
    assert Search(graphs, None, tuple(row["ids"]), 8, opened.manifest.model.end_id).cached_greedy() is None
    assert list(recorder.searched(recorder.spec, tuple(row["ids"]), 8)[0].tokens) == row["greedy"]


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_the_best_of_many_with_equals_among_them(count: int) -> None:
    rng = np.random.default_rng(count)
    for size in (11, 40, 1000):
        values = rng.integers(0, size // 4, size).astype(np.float32)
        assert _best_places(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


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
