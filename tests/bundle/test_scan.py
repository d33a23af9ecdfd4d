"""The scan: ordinary graphs pass, hostile and damaged ones are refused, and nothing but a typed error comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edgewise.errors import UnsafeBundleError
from edgewise.runtime.bundle import scan
from edgewise.runtime.bundle.manifest import TensorSpec
from edgewise.runtime.bundle.operators import ALLOWED
from edgewise.runtime.bundle.scan import ScannedGraph, scan_graph

Siblings = dict[str, int]


def scanned(model: onnx.ModelProto, siblings: Siblings | None = None) -> ScannedGraph:
    return scan_graph(model.SerializeToString(), "g.onnx", siblings or {})


def node(model: onnx.ModelProto, operator: str, inputs: list[str], **rest: Any) -> onnx.NodeProto:
    """Add a node that nothing needs: the scan looks at every one."""
    model.graph.node.append(helper.make_node(operator, inputs, [f"out_{len(model.graph.node)}"], **rest))
    return model.graph.node[-1]


def initializer(model: onnx.ModelProto, name: str, value: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def inner_graph() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "inner", [], [])


# What passes


def test_describes_the_interface(graph: onnx.ModelProto, siblings: Siblings) -> None:
    found = scanned(graph, siblings)
    shape = ("B", "S", 8)
    assert found.inputs == (TensorSpec(name="ids", dtype="int64", shape=("B", "S")),)
    assert found.outputs == tuple(
        TensorSpec(name=n, dtype="float32", shape=shape) for n in ("cross_key_0", "cross_value_0")
    )
    assert found.operators == {"Gather": 1, "Mul": 2}
    (weights,) = found.external
    assert (weights.name, weights.dims, weights.location) == ("embedding", (12, 8), "weights.bin")
    assert (weights.offset, weights.length) == (0, 384)


def test_every_kind_of_inline_data_passes(graph: onnx.ModelProto, siblings: Siblings) -> None:
    kinds = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT64]
    kinds += [TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.UINT32]
    for kind in kinds:
        graph.graph.initializer.append(helper.make_tensor(f"typed_{kind}", kind, [2, 3], [0, 1, 1, 0, 1, 1]))
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        initializer(graph, f"raw_{kind}", np.ones((3, 2), dtype))
    graph.graph.initializer.append(helper.make_tensor("negative", TensorProto.INT64, [3], [-1, -(2**63), 2**63 - 1]))
    initializer(graph, "empty", np.zeros((0, 4), np.float32))
    graph.graph.initializer.append(TensorProto(name="int4", data_type=TensorProto.UINT4, dims=[3], raw_data=b"ab"))
    assert scanned(graph, siblings).operators["Mul"] == 2


def test_attributes_of_plain_data_pass(graph: onnx.ModelProto, siblings: Siblings) -> None:
    node(graph, "Constant", [], value=numpy_helper.from_array(np.ones((2, 2), np.float32)))
    node(graph, "Constant", [], value_ints=[2, 3])
    node(graph, "Constant", [], value_floats=[2.5, 3.5])
    node(graph, "Constant", [], value_float=0.5)
    node(graph, "Constant", [], value_string="x")
    node(graph, "Concat", ["x", "x"], axis=-1)
    node(graph, "MatMulNBits", ["x", "w", "s"], domain="com.microsoft", K=8, N=4, bits=8, block_size=32)
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = scanned(graph, siblings)
    assert found.operators["Constant"] == 5
    assert found.operators["com.microsoft::MatMulNBits"] == 1


def test_both_spellings_of_the_default_domain(graph: onnx.ModelProto, siblings: Siblings) -> None:
    node(graph, "Relu", ["x"], domain="ai.onnx")
    assert scanned(graph, siblings).operators["Relu"] == 1


def test_metadata_and_values_pass(graph: onnx.ModelProto, siblings: Siblings) -> None:
    graph.doc_string = "x" * 5000
    graph.metadata_props.add(key="a", value="b" * 5000)
    graph.graph.node[0].metadata_props.add(key="a", value="b" * 5000)
    graph.graph.value_info.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", None, 8]))
    graph.graph.value_info.append(onnx.ValueInfoProto(name="untyped"))
    graph.graph.input.append(helper.make_tensor_value_info("any", TensorProto.BOOL, [None, 3]))
    assert scanned(graph, siblings).inputs[1].shape == ("?", 3)


def test_tied_weights_may_share_bytes(graph: onnx.ModelProto, siblings: Siblings) -> None:
    tied = TensorProto()
    tied.CopyFrom(graph.graph.initializer[0])
    tied.name = "projection"
    tied.dims[:] = [8, 12]
    graph.graph.initializer.append(tied)
    assert [t.name for t in scanned(graph, siblings).external] == ["embedding", "projection"]


def test_graph_spec_of_a_file(toy: Any) -> None:
    spec = scan.graph_spec(toy.graph)
    assert (spec.file, spec.inputs[0].name, spec.outputs[1].name) == ("encoder.onnx", "ids", "cross_value_0")


def test_allowed_operators_exist() -> None:
    """A misspelt operator in the list would allow nothing, and hide that it does."""
    known = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
    assert ALLOWED[""] <= known
    assert not ALLOWED[""] & {"If", "Loop", "Scan", "SequenceMap", "StringConcat", "Optional", "RandomNormal"}


def test_many_nodes_in_time(graph: onnx.ModelProto, siblings: Siblings) -> None:
    for _ in range(scan.MAX_NODES - 3):
        node(graph, "Mul", ["x", "scale"])
    raw = graph.SerializeToString()
    started = time.perf_counter()
    scan_graph(raw, "g.onnx", siblings)
    assert time.perf_counter() - started < 5.0  # about 0.2 s; a slow machine under load


# What does not: hostile graphs


def nested_functions(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("local", 1)]
    for i in range(3000):
        inner = helper.make_node(f"f{i + 1}", ["x"], ["y"], domain="local")
        model.functions.append(helper.make_function("local", f"f{i}", ["x"], ["y"], [inner], opsets))


def nested_subgraphs(model: onnx.ModelProto) -> None:
    graph = inner_graph()
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"], body=graph)], "g", [], [])
    node(model, "Identity", ["x"], name="deep", body=graph)


def sequence_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, None))


def external_attribute(model: onnx.ModelProto) -> None:
    value = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="weights.bin")
    node(model, "Constant", [], value=value)


def reference_attribute(model: onnx.ModelProto) -> None:
    added = node(model, "Relu", ["x"])
    added.attribute.append(AttributeProto(name="a", type=AttributeProto.INT, ref_attr_name="b"))


def two_kinds_in_one_attribute(model: onnx.ModelProto) -> None:
    attribute = AttributeProto(name="a", type=AttributeProto.INT, i=1)
    attribute.g.CopyFrom(inner_graph())
    node(model, "Relu", ["x"]).attribute.append(attribute)


def sparse_initializer(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def training_info(model: onnx.ModelProto) -> None:
    model.training_info.add()


def device_configuration(model: onnx.ModelProto) -> None:
    model.graph.node[0].device_configurations.add()


def many_edges(model: onnx.ModelProto) -> None:
    node(model, "Concat", ["x"] * 2000, axis=0)


def long_name(model: onnx.ModelProto) -> None:
    model.graph.node[0].name = "x" * (1 << 20)


def many_attributes(model: onnx.ModelProto) -> None:
    node(model, "Relu", ["x"], **{f"a{i}": i for i in range(65)})


def many_nodes(model: onnx.ModelProto) -> None:
    small = helper.make_node("Relu", ["x"], ["y"])
    model.graph.node.extend([small] * scan.MAX_NODES)


def initializer_twice(model: onnx.ModelProto) -> None:
    initializer(model, "scale", np.float32(1))


def input_with_default(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))


def output_without_shape(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))


def constant_shape(operator: str, shape: list[int], before: str = "x") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        initializer(model, "huge", np.array(shape, np.int64))
        node(model, operator, ["huge"] if operator == "ConstantOfShape" else [before, "huge"], name="bomb")

    return change


def constant_node_shape(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["y"], name="bomb"))
    model.graph.node.append(helper.make_node("Constant", [], ["huge"], value_ints=[2**20, 2**20]))


def tensor(**fields: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        fields.setdefault("data_type", TensorProto.FLOAT)
        model.graph.initializer.append(TensorProto(name="bad", **fields))

    return change


def operator(name: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    return lambda model: node(model, name, ["x"], domain=domain, name="bad")  # type: ignore[return-value]


def opset(domain: str, version: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.opset_import.append(helper.make_opsetid(domain, version))


def shaped_input(shape: list[Any], kind: int = TensorProto.FLOAT) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.input.append(helper.make_tensor_value_info("bad", kind, shape))


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "nested functions": (nested_functions, r"g\.onnx: the model has functions \(3000\), expected none"),
    "nested subgraphs": (
        nested_subgraphs,
        r"node 3 'deep' \(Identity\), attribute 'body' holds \['g'\], expected plain",
    ),
    "If": (
        lambda m: node(m, "If", ["c"], name="bad", then_branch=inner_graph()),
        r"node 3 'bad' \(If\): operator not all",
    ),
    "Loop": (operator("Loop"), r"node 3 'bad' \(Loop\): operator not allowed, expected standard ONNX"),
    "Scan": (operator("Scan"), r"node 3 'bad' \(Scan\): operator not allowed"),
    "SequenceMap": (operator("SequenceMap"), r"\(SequenceMap\): operator not allowed"),
    "custom operator": (operator("Relu", "evil.ops"), r"node 3 'bad' \(evil.ops::Relu\): operator not allowed"),
    "unknown contrib operator": (
        operator("ExpandDims", "com.microsoft"),
        r"\(com.microsoft::ExpandDims\): operator not",
    ),
    "device blob": (operator("EPContext", "com.microsoft"), r"\(com.microsoft::EPContext\): operator not allowed"),
    "custom operator set": (opset("evil.ops", 1), "operator set 'evil.ops' 1, expected each once of ai.onnx 1 to"),
    "operator set twice": (opset("", 23), "operator set '' 23, expected each once"),
    "operator set of the future": (
        opset("com.microsoft", 2**40),
        "operator set 'com.microsoft' 1099511627776, expected",
    ),
    "old IR version": (lambda m: setattr(m, "ir_version", 3), "ONNX IR version 3, expected 4 or newer"),
    "training": (training_info, "the model has training_info"),
    "no graph": (lambda m: m.ClearField("graph"), "no graph inside"),
    "sparse initializer": (sparse_initializer, "the graph has sparse_initializer"),
    "device configuration": (device_configuration, r"node 0 'embed' \(Gather\) has device_configurations"),
    "overload": (lambda m: setattr(m.graph.node[0], "overload", "x"), "has overload"),
    "reference attribute": (reference_attribute, r"attribute 'a' holds \['ref_attr_name'\], expected plain data"),
    "two kinds in one attribute": (
        two_kinds_in_one_attribute,
        r"attribute 'a' holds \['g', 'i'\], expected plain data",
    ),
    "external attribute": (
        external_attribute,
        "attribute 'value' has external data, expected its data inside the node",
    ),
    "sequence input": (sequence_input, r"input 'many' has sequence_type \(1\), expected none"),
    "string input": (shaped_input([1], TensorProto.STRING), "input 'bad' has element type 8, expected one of"),
    "absurd input": (shaped_input([2**40, 2]), r"input 'bad' has shape \[1099511627776, 2\], expected sizes of"),
    "absurd beside nothing": (shaped_input([0, 2**40]), r"input 'bad' has shape \[0, 1099511627776\], expected"),
    "input of rank 9": (shaped_input([1] * 9), "dimensions of input 'bad': 9, expected at most 8"),
    "output without shape": (output_without_shape, "output 'x' declares no shape, expected one"),
    "input with a default": (input_with_default, "input 'scale' has an initializer, expected inputs without a default"),
    "initializer twice": (initializer_twice, "initializer 'scale' has no name of its own, expected distinct names"),
    "many edges": (many_edges, r"inputs of node 3 '' \(Concat\): 2000, expected at most 1024"),
    "many attributes": (many_attributes, r"attributes of node 3 '' \(Relu\): 65, expected at most 64"),
    "many nodes": (many_nodes, "nodes: 8003, expected at most 8000"),
    "long name": (long_name, "a name of 1048576 bytes, expected at most 1024"),
    "absurd dims": (tensor(dims=[2**40, 2**40]), r"initializer 'bad' has shape \[1099511627776, 1099511627776\]"),
    "negative dims": (tensor(dims=[-1]), r"initializer 'bad' has shape \[-1\], expected sizes of 0 and more"),
    "rank 9": (tensor(dims=[1] * 9), "a list of more than 8 integers"),
    "dims beyond the data": (tensor(dims=[1000], raw_data=b"abcd"), "holds 4 bytes, expected 4000 for shape"),
    "no data": (tensor(dims=[3]), "'bad' holds 0 bytes, expected 12"),
    "typed data too short": (tensor(dims=[3], float_data=[1.0]), "'bad' holds 4 bytes, expected 12"),
    "data of another type": (
        tensor(dims=[1], int64_data=[1]),
        r"'bad' holds \['int64_data'\], expected raw_data or float",
    ),
    "data twice": (
        tensor(dims=[1], float_data=[1.0], raw_data=b"abcd"),
        r"'bad' holds \['raw_data', 'float_data'\], expected raw_data or",
    ),
    "strings": (
        tensor(dims=[1], data_type=TensorProto.STRING, string_data=[b"x"]),
        r"'bad' has string_data \(1\), expect",
    ),
    "unknown element type": (tensor(dims=[1], data_type=99), "'bad' has element type 99, expected one of"),
    "constant of shape": (
        constant_shape("ConstantOfShape", [2**30, 2]),
        r"node 3 'bomb' \(ConstantOfShape\) makes shape",
    ),
    "expanded": (
        constant_shape("Expand", [2**20, 2**20]),
        r"makes shape \[1048576, 1048576\], expected at most 67108864",
    ),
    "tiled": (constant_shape("Tile", [2**62, 1]), r"node 3 'bomb' \(Tile\) makes shape"),
    "constant node": (constant_node_shape, r"node 3 'bomb' \(ConstantOfShape\) makes shape \[1048576, 1048576\]"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile(
    graph: onnx.ModelProto, siblings: Siblings, change: Callable[[onnx.ModelProto], Any], message: str
) -> None:
    change(graph)
    with pytest.raises(UnsafeBundleError, match=message):
        scanned(graph, siblings)


def test_message_names_file_and_remedy(graph: onnx.ModelProto, siblings: Siblings) -> None:
    node(graph, "Loop", ["x"], name="spin")
    with pytest.raises(
        UnsafeBundleError, match=r"^g\.onnx: node 3 'spin' .*Export the bundle again, and open bundles from"
    ):
        scanned(graph, siblings)


def test_file_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_GRAPH_BYTES", 10)
    with pytest.raises(UnsafeBundleError, match=r"11 bytes, expected at most 10: weights belong into weights.bin"):
        scan_graph(b"x" * 11, "g.onnx", {})


# External data


ELSEWHERE = [
    "../weights.bin", "../../etc/passwd", "/etc/passwd", "./weights.bin", "sub/weights.bin", "weights.bin/", "", ".",
    "..", "C:\\weights.bin", "..\\weights.bin", "WEIGHTS.BIN", "weights.bin\x00", "encoder.onnx", "file:///etc/passwd",
    "*/_ORT_MEM_ADDR_/*", "more.bin",
]  # fmt: skip


@pytest.mark.parametrize("location", ELSEWHERE)
def test_external_data_elsewhere(graph: onnx.ModelProto, siblings: Siblings, location: str) -> None:
    graph.graph.initializer[0].external_data[0].value = location
    with pytest.raises(UnsafeBundleError, match=r"lies in .*, expected one of \['weights\.bin'\] in the same folder"):
        scanned(graph, siblings)


def _entry(key: str, value: str) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value

    return change


def _inline_too(tensor: TensorProto) -> None:
    tensor.raw_data = b"x" * 384


def _not_external(tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.DEFAULT


def _no_entries(tensor: TensorProto) -> None:
    del tensor.external_data[:]


def _checksum(tensor: TensorProto) -> None:
    tensor.external_data[2].key = "checksum"


def _location_twice(tensor: TensorProto) -> None:
    tensor.external_data[2].key = "location"


def _fourth_entry(tensor: TensorProto) -> None:
    tensor.external_data.add(key="checksum", value="0")


EXTERNAL: dict[str, tuple[Callable[[TensorProto], None], str]] = {
    "beyond the file": (_entry("offset", "4"), r"'embedding' ends at 388, expected within the 384 of weights\.bin"),
    "far beyond": (_entry("offset", "9" * 15), "'embedding' ends at 1000000000000383, expected within"),
    "too many digits": (_entry("offset", "9" * 16), "external data offset '9+', expected a number of bytes"),
    "negative offset": (_entry("offset", "-4"), "external data offset '-4', expected a number of bytes"),
    "offset of other digits": (_entry("offset", "²"), "external data offset '²', expected a number of bytes"),
    "too short": (_entry("length", "380"), r"takes 380 bytes of weights\.bin, expected 384 for shape \[12, 8\]"),
    "length empty": (_entry("length", ""), "external data length '', expected a number of bytes"),
    "inline too": (_inline_too, r"'embedding' has raw_data \(1\), expected none"),
    "not said to be external": (_not_external, "data location .*, expected 1 and external_data together"),
    "no entries": (_no_entries, r"data location \[1\], expected 1 and external_data together"),
    "checksum": (_checksum, "external data key 'checksum', expected location, offset and length, each once"),
    "location twice": (
        _location_twice,
        "external data key 'location', expected location, offset and length, each once",
    ),
    "four entries": (_fourth_entry, "external data of initializer 'embedding': 4, expected at most 3"),
}


@pytest.mark.parametrize(("change", "message"), EXTERNAL.values(), ids=EXTERNAL.keys())
def test_external_data(
    graph: onnx.ModelProto, siblings: Siblings, change: Callable[[TensorProto], None], message: str
) -> None:
    change(graph.graph.initializer[0])
    with pytest.raises(UnsafeBundleError, match=message):
        scanned(graph, siblings)


def test_a_thousand_tensors_over_the_same_bytes(graph: onnx.ModelProto, siblings: Siblings) -> None:
    for i in range(1000):
        graph.graph.initializer.append(graph.graph.initializer[0])
        graph.graph.initializer[-1].name = f"copy{i}"
    with pytest.raises(
        UnsafeBundleError, match=r"take 384384 bytes of weights\.bin of 384 bytes, expected at most 4 times"
    ):
        scanned(graph, siblings)


def test_large_inline_data_is_not_decoded(graph: onnx.ModelProto, siblings: Siblings, tmp_path: Path) -> None:
    values = helper.make_tensor("typed", TensorProto.INT64, [200_000], np.arange(200_000, dtype=np.int64))
    graph.graph.initializer.append(values)
    started = time.perf_counter()
    scanned(graph, siblings)
    assert time.perf_counter() - started < 2.0
