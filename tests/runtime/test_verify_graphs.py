"""What only some requests run on, wrong in bundles whose every other graph is right: the replay names the graph."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgewise.pipeline import export_bundle

from ..bundles import Damaged, record_few_cases, tiny_bundle
from .test_verify_bundles import TRANSLATOR, VARIANTS, replay

Change = Callable[[onnx.GraphProto], None]


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    return Damaged(tiny_bundle("translate"), tmp_path / "bundle")


def _change(damaged: Damaged, variant: str, graph: str, change: Change) -> None:
    file = damaged.path / variant / f"{graph}.onnx"
    model = onnx.load(file, load_external_data=False)
    change(model.graph)
    file.write_bytes(model.SerializeToString())
    damaged.fit()


def _through(kind: str) -> Change:
    """Put an operator in front of an output, such as ``Neg`` in front of the log-probabilities."""
    kind, _, output = kind.partition(" ")

    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.output[:] = [f"{name}_was" if name == output else name for name in node.output]
        graph.node.append(helper.make_node(kind, [f"{output}_was"], [output], name="damage"))

    return change


def _norms(graph: onnx.GraphProto) -> None:
    """Norms that divide by too much: finite scores that look like any others."""
    changed = [a for node in graph.node for a in node.attribute if a.name == "epsilon"]
    assert changed
    for attribute in changed:
        attribute.f = 3.0


def _tokens(graph: onnx.GraphProto) -> None:
    """Candidates of the wrong tokens, with the right log-probabilities."""
    for node in graph.node:
        node.output[:] = ["ids_were" if name == "top_ids" else name for name in node.output]
    graph.initializer.append(helper.make_tensor("three", onnx.TensorProto.INT64, [], [3]))
    graph.node.append(helper.make_node("BitwiseXor", ["ids_were", "three"], ["top_ids"], name="damage"))


def _graphs(variant: str, task: str) -> list[str]:
    joins = ["ragged", "verify"] if variant.startswith("cpu") else ["decoder"]
    return [*joins, "alignment"] if task == "translate" else joins


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", ["translate", "generate", "classify"])
def test_every_such_graph_was_replayed(task: str, variant: str) -> None:
    report = replay(tiny_bundle(task), variant)
    assert [found.graph for found in report.graphs] == ([] if task == "classify" else _graphs(variant, task))
    assert all(found.steps > 20 for found in report.graphs)
    assert [found.largest for found in report.graphs if found.graph == "verify"] in ([], [0.0])
    assert not [fault for found in report.graphs for fault in found.faults]
    said = ", ".join(f"{found.graph} {found.steps}" for found in report.graphs)
    assert (f"; steps of other graphs: {said}; " in report.summary()) == bool(said)
    told = json.loads(json.dumps(report.to_json()))["graphs"]
    assert [graph["graph"] for graph in told] == [found.graph for found in report.graphs]


@pytest.mark.parametrize(
    ("graph", "change", "fault"),
    [
        ("ragged", _norms, "graph ragged: .*, token 0: beside others its log-probabilities move by "),
        ("ragged", _tokens, "graph ragged: .*, token 0: beside others its log-probabilities move by "),
        ("verify", _norms, "graph verify: .*, token 1: read at once its log-probabilities move by "),
        ("verify", _tokens, "graph verify: .*, token 1: read at once its log-probabilities move by "),
        ("alignment", _through("Neg cross_attention"), "graph alignment: .* from -.* with sum -1"),
        ("alignment", _through("Sqrt cross_attention"), "graph alignment: .*, expected none below 0 and sum 1"),
    ],
)
@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8"])
def test_one_that_is_wrong_is_named(damaged: Damaged, variant: str, graph: str, change: Change, fault: str) -> None:
    _change(damaged, variant, graph, change)
    report = replay(damaged.path, variant)
    assert [found.graph for found in report.graphs if found.faults] == [graph]
    assert not [case for case in report.cases if case.faults]
    assert re.search(fault, "\n".join(report.faults)), report.faults
    assert not report.ok


def test_scores_that_are_not_numbers_fail_the_graph(damaged: Damaged) -> None:
    _change(damaged, "cpu-fp32", "ragged", _through("Log top_log_probs"))
    assert any(
        fault.startswith("graph ragged: EngineError: onnxruntime gave log-probabilities that are not numbers")
        for fault in replay(damaged.path, "cpu-fp32").faults
    )


@pytest.mark.parametrize("variant", ["cpu-fp32", "openvino-fp32"])
def test_bundles_of_earlier_versions_pass(damaged: Damaged, variant: str) -> None:
    file = damaged.path / "manifest.json"
    data = json.loads(file.read_bytes())
    data["alignment_layer"] = None
    for made in data["variants"]:
        for graph in {"ragged", "verify", "alignment"} & set(made["graphs"]):
            (damaged.path / made["folder"] / made["graphs"].pop(graph)["file"]).unlink()
    file.write_text(json.dumps(data))
    damaged.fit()
    report = replay(damaged.path, variant)
    assert report.ok, report.summary()
    assert [found.graph for found in report.graphs] == (["decoder"] if variant == "openvino-fp32" else [])


@pytest.mark.slow
def test_four_bits_join_and_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped translator, whose widths divide into blocks."""
    monkeypatch.setattr("edgewise.pipeline.record_cases", record_few_cases)
    export_bundle(TRANSLATOR, tmp_path / "made", ["cpu"], ["int4"], None, 1.0, lambda *_: None)
    kernels = json.loads((tmp_path / "made" / "manifest.json").read_bytes())["variants"][0]["kernels"]
    assert "int4-blocks" in {choice["kernel"] for choice in kernels}
    report = replay(tmp_path / "made", "cpu-int4")
    assert [found.graph for found in report.graphs] == ["ragged", "verify", "alignment"]
    assert not [fault for found in report.graphs for fault in found.faults]
    assert next(found.largest for found in report.graphs if found.graph == "verify") == 0
