"""A structural scan of ONNX graph files, before an engine opens one: plain Python, bounded, without the onnx package.

An engine's own parser is no guard: 3000 nested local functions crash ONNX Runtime 1.31 with a segmentation fault. A
graph passes when every message has only known fields, every operator is on the allow-list, nothing nests (no local
functions, no subgraphs, no sequences), every count and size is below its cap, inline data fit their shape, and external
data lie in a listed file of the same folder. The descent is as deep as the code below and no deeper: nothing recurses.

What a graph *computes* is not bounded here, only constant shapes are: sizes that follow from an input cannot be judged
without running the graph.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ...errors import UnsafeBundleError
from .manifest import GraphSpec, TensorSpec
from .messages import (
    ATTRIBUTE,
    ATTRIBUTE_FIELD,
    BITS,
    DIM,
    DTYPES,
    ENTRY,
    GRAPH,
    MODEL,
    NODE,
    OPSET,
    SHAPE,
    TENSOR,
    TENSOR_TYPE,
    TYPE,
    TYPED,
    TYPED_WIRE,
    VALUE,
)
from .operators import ALLOWED, NEWEST_OPSET, ONNX
from .wire import VARINT, Fields, Malformed, Reader, Schema, Span

MAX_GRAPH_BYTES = 64 << 20  # weights lie outside the graph file
MAX_FIELDS = 2_000_000
MAX_NODES = 8_000  # OpenVINO takes minutes over a chain of 20 000
MAX_TENSORS = 8_000
MAX_EDGES = 1024  # inputs or outputs of one node
MAX_ATTRIBUTES = 64
MAX_NAME = 1024
MAX_RANK = 8
MAX_ELEMENTS = 1 << 33
MAX_CONSTANT_ELEMENTS = 1 << 26  # what a constant shape may make of nothing
MAX_ALIASING = 4  # an engine copies every tensor: tied weights share bytes twice, a bomb a thousand times
MIN_IR_VERSION = 4  # before it, an initializer is an input that a caller may replace

_NOTHING: Span = (0, 0)

# Operators whose output is as large as a value says: the input that says it, where that is a constant.
_SHAPED_BY = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Pad": 1, "Range": 1, "OneHot": 1}


@dataclass(frozen=True, kw_only=True)
class ExternalTensor:
    """A tensor that lies in another file: its ONNX element type, its dimensions and its place in bytes."""

    name: str
    data_type: int
    dims: tuple[int, ...]
    location: str
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class ScannedGraph:
    """What a graph file declares. Operators are counted as ``type``, or ``domain::type`` outside standard ONNX."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Counter[str]
    external: tuple[ExternalTensor, ...]


def scan_graph(data: bytes, where: str, siblings: Mapping[str, int]) -> ScannedGraph:
    """Scan the bytes of a graph file; ``where`` names it, ``siblings`` are the listed files beside it with their bytes.

    Raises:
        UnsafeBundleError: the graph holds what it may not, or is no graph; names the file, the node and the value.
    """
    if len(data) > MAX_GRAPH_BYTES:
        refuse(where, f"{len(data)} bytes, expected at most {MAX_GRAPH_BYTES}: weights belong into weights.bin")
    try:
        return _Scan(data, where, siblings).model()
    except Malformed as error:
        refuse(where, f"damaged, or no ONNX graph ({error})")


def read_graph(file: Path) -> bytes:
    """The bytes of a graph file; of one too large only so many that :func:`scan_graph` refuses it."""
    with file.open("rb") as stream:
        return stream.read(MAX_GRAPH_BYTES + 1)


def graph_spec(file: Path) -> GraphSpec:
    """What a manifest says of a graph file, for its builder: scanned beside the ``.bin`` files of its folder.

    Raises:
        UnsafeBundleError: no bundle could hold this graph.
    """
    siblings = {path.name: path.stat().st_size for path in file.parent.glob("*.bin")}
    graph = scan_graph(read_graph(file), file.name, siblings)
    return GraphSpec(file=file.name, inputs=graph.inputs, outputs=graph.outputs)


def refuse(where: str, fault: str) -> NoReturn:
    """Raise for one fault of the graph file ``where``.

    Raises:
        UnsafeBundleError: always.
    """
    raise UnsafeBundleError(f"{where}: {fault}. Export the bundle again, and open bundles from sources you trust")


class _Scan:
    """One pass over one file; ``place`` in a method is how its message names the part at hand."""

    def __init__(self, data: bytes, where: str, siblings: Mapping[str, int]) -> None:
        self.reader = Reader(data, MAX_FIELDS)
        self.where = where
        self.siblings = siblings
        self.external: list[ExternalTensor] = []
        self.constants: dict[str, tuple[int, ...]] = {}  # small integer tensors by name
        self.shaped: list[tuple[str, str]] = []  # nodes whose output is as large as a value says, and that value
        self.operators: Counter[str] = Counter()

    def fault(self, fault: str) -> NoReturn:
        refuse(self.where, fault)

    def parse(self, span: Span, schema: Schema, message: str, place: str = "") -> Fields:
        try:
            return self.reader.fields(span, schema, message)
        except Malformed as error:
            raise Malformed(f"{place}: {error}" if place else str(error)) from None

    def text(self, fields: Fields, name: str) -> str:
        return self.reader.text(fields.get(name, [_NOTHING])[0], MAX_NAME)

    def absent(self, fields: Fields, names: tuple[str, ...], place: str) -> None:
        for name in names:
            if name in fields:
                self.fault(f"{place} has {name} ({len(fields[name])}), expected none")

    def most(self, values: list[Any], cap: int, place: str) -> list[Any]:
        if len(values) > cap:
            self.fault(f"{place}: {len(values)}, expected at most {cap}")
        return values

    def model(self) -> ScannedGraph:
        fields = self.parse((0, len(self.reader.data)), MODEL, "ModelProto")
        self.absent(fields, ("functions", "training_info", "configuration"), "the model")
        version = fields.get("ir_version", [0])[0]
        if version < MIN_IR_VERSION:
            self.fault(f"ONNX IR version {version}, expected {MIN_IR_VERSION} or newer")
        self.opsets(self.most(fields.get("opset_import", []), 16, "operator sets"))
        if "graph" not in fields:
            self.fault("no graph inside")
        return self.graph(self.parse(fields["graph"][0], GRAPH, "GraphProto"))

    def opsets(self, spans: list[Span]) -> None:
        seen: set[str] = set()
        for span in spans:
            fields = self.parse(span, OPSET, "OperatorSetIdProto")
            domain, version = _domain(self.text(fields, "domain")), fields.get("version", [0])[0]
            if domain not in NEWEST_OPSET or domain in seen or not 1 <= version <= NEWEST_OPSET[domain]:
                allowed = ", ".join(f"{name or 'ai.onnx'} 1 to {newest}" for name, newest in NEWEST_OPSET.items())
                self.fault(f"operator set {domain!r} {version}, expected each once of {allowed}")
            seen.add(domain)

    def graph(self, fields: Fields) -> ScannedGraph:
        self.absent(fields, ("sparse_initializer", "quantization_annotation"), "the graph")
        initializers = self.initializers(self.most(fields.get("initializer", []), MAX_TENSORS, "initializers"))
        inputs = [self.value(span, "input") for span in self.most(fields.get("input", []), 4 * MAX_EDGES, "inputs")]
        outputs = [self.value(span, "output") for span in self.most(fields.get("output", []), 4 * MAX_EDGES, "outputs")]
        for spec in inputs:
            if spec.name in initializers:
                self.fault(f"input {spec.name!r} has an initializer, expected inputs without a default")
        for span in self.most(fields.get("value_info", []), 4 * MAX_NODES, "value infos"):
            self.value_info(span)
        for index, span in enumerate(self.most(fields.get("node", []), MAX_NODES, "nodes")):
            self.node(span, index)
        self.aliasing()
        self.constant_shapes()
        return ScannedGraph(
            inputs=tuple(inputs), outputs=tuple(outputs), operators=self.operators, external=tuple(self.external)
        )

    # Interface: TypeProto is read one level deep, as only tensors are allowed.

    def value(self, span: Span, kind: str) -> TensorSpec:
        name, data_type, shape = self.typed_value(span, kind)
        if data_type not in DTYPES:
            self.fault(f"{kind} {name!r} has element type {data_type}, expected one of {sorted(DTYPES.values())}")
        if shape is None:
            self.fault(f"{kind} {name!r} declares no shape, expected one")
        return TensorSpec(name=name, dtype=DTYPES[data_type], shape=shape)

    def value_info(self, span: Span) -> None:
        self.typed_value(span, "value")

    def typed_value(self, span: Span, kind: str) -> tuple[str, int, tuple[int | str, ...] | None]:
        fields = self.parse(span, VALUE, "ValueInfoProto")
        name = self.text(fields, "name")
        place = f"{kind} {name!r}"
        types = self.parse(fields.get("type", [_NOTHING])[0], TYPE, "TypeProto", place)
        others = tuple(field.name for field in TYPE.values() if field.name not in ("tensor_type", "denotation"))
        self.absent(types, others, place)
        tensor = self.parse(types.get("tensor_type", [_NOTHING])[0], TENSOR_TYPE, "TypeProto.Tensor", place)
        shape = self.shape(tensor["shape"][0], place) if "shape" in tensor else None
        return name, tensor.get("elem_type", [0])[0], shape

    def shape(self, span: Span, place: str) -> tuple[int | str, ...]:
        dims = self.parse(span, SHAPE, "TensorShapeProto", place).get("dim", [])
        found: list[int | str] = []
        for dim in self.most(dims, MAX_RANK, f"dimensions of {place}"):
            fields = self.parse(dim, DIM, "Dimension", place)
            if "dim_value" in fields and "dim_param" in fields:
                self.fault(f"{place} has a dimension that is both a size and a name, expected one of them")
            found.append(fields["dim_value"][0] if "dim_value" in fields else self.text(fields, "dim_param") or "?")
        self.elements(tuple(d for d in found if isinstance(d, int)), place)
        return tuple(found)

    def elements(self, dims: tuple[int, ...], place: str) -> int:
        """How many elements a shape has, capped; a dimension of 0 hides no absurd neighbour."""
        count = math.prod(max(d, 1) for d in dims)
        if any(d < 0 for d in dims) or count > MAX_ELEMENTS:
            self.fault(f"{place} has shape {list(dims)}, expected sizes of 0 and more, at most {MAX_ELEMENTS} elements")
        return math.prod(dims)

    # Tensors

    def initializers(self, spans: list[Span]) -> set[str]:
        names: set[str] = set()
        for span in spans:
            fields = self.parse(span, TENSOR, "TensorProto")
            name = self.text(fields, "name")
            if not name or name in names:
                self.fault(f"initializer {name!r} has no name of its own, expected distinct names")
            names.add(name)
            self.tensor(fields, name, f"initializer {name!r}", may_be_external=True)
        return names

    def tensor(self, fields: Fields, name: str, place: str, *, may_be_external: bool) -> None:
        self.absent(fields, ("segment", "string_data"), place)
        dims = self.reader.integers(fields.get("dims", []), MAX_RANK)
        data_type = fields.get("data_type", [0])[0]
        if data_type not in BITS:
            self.fault(f"{place} has element type {data_type}, expected one of {sorted(BITS)}")
        nbytes = (self.elements(dims, place) * BITS[data_type] + 7) // 8
        if fields.get("data_location", [0])[0] or "external_data" in fields:
            if not may_be_external:
                self.fault(f"{place} has external data, expected its data inside the node")
            self.external_data(fields, name, dims, data_type, nbytes, place)
        else:
            self.inline_data(fields, dims, data_type, nbytes, place)
            self.remember(fields, name, data_type, nbytes)

    def inline_data(self, fields: Fields, dims: tuple[int, ...], data_type: int, nbytes: int, place: str) -> None:
        held = [name for name in ("raw_data", *TYPED_WIRE, "uint64_data") if name in fields]
        if len(held) > 1 or (held and held[0] not in ("raw_data", TYPED.get(data_type))):
            self.fault(f"{place} holds {held}, expected raw_data or {TYPED.get(data_type)}")
        if held and held[0] != "raw_data":
            found = self.reader.count(fields[held[0]], TYPED_WIRE.get(held[0], VARINT)) * BITS[data_type] // 8
        else:
            found = sum(stop - start for start, stop in fields.get("raw_data", []))
        if found != nbytes:
            self.fault(f"{place} holds {found} bytes, expected {nbytes} for shape {list(dims)}")

    def remember(self, fields: Fields, name: str, data_type: int, nbytes: int) -> None:
        """Keep a small integer tensor: it may be the shape of another."""
        if data_type != 7 or nbytes > 8 * 64:
            return
        raw = self.reader.payload(fields.get("raw_data", [_NOTHING])[0])
        values = [int.from_bytes(raw[i : i + 8], "little", signed=True) for i in range(0, len(raw), 8)]
        self.constants[name] = tuple(values) or self.reader.integers(fields.get("int64_data", []), 64)

    def external_data(
        self, fields: Fields, name: str, dims: tuple[int, ...], data_type: int, nbytes: int, place: str
    ) -> None:
        self.absent(fields, ("raw_data", *TYPED_WIRE, "uint64_data"), place)
        if fields.get("data_location", [0])[0] != 1 or "external_data" not in fields:
            self.fault(
                f"{place} has data location {fields.get('data_location')}, expected 1 and external_data together"
            )
        entries = self.entries(self.most(fields["external_data"], 3, f"external data of {place}"), place)
        location = entries.get("location", "")
        if location not in self.siblings:
            self.fault(f"{place} lies in {location!r}, expected one of {sorted(self.siblings)} in the same folder")
        offset, length = (self.decimal(entries, key, place) for key in ("offset", "length"))
        if length != nbytes:
            self.fault(f"{place} takes {length} bytes of {location}, expected {nbytes} for shape {list(dims)}")
        if offset + length > self.siblings[location]:
            self.fault(
                f"{place} ends at {offset + length}, expected within the {self.siblings[location]} of {location}"
            )
        self.external.append(
            ExternalTensor(name=name, data_type=data_type, dims=dims, location=location, offset=offset, length=length)
        )

    def entries(self, spans: list[Span], place: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for span in spans:
            fields = self.parse(span, ENTRY, "StringStringEntryProto", place)
            key = self.text(fields, "key")
            if key not in ("location", "offset", "length") or key in found:
                self.fault(f"{place} has external data key {key!r}, expected location, offset and length, each once")
            found[key] = self.text(fields, "value")
        return found

    def decimal(self, entries: dict[str, str], key: str, place: str) -> int:
        text = entries.get(key, "0" if key == "offset" else "")
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            self.fault(f"{place} has external data {key} {text!r}, expected a number of bytes")
        return int(text)

    def aliasing(self) -> None:
        taken: Counter[str] = Counter()
        for tensor in self.external:
            taken[tensor.location] += tensor.length
        for location, total in taken.items():
            if total > MAX_ALIASING * self.siblings[location]:
                self.fault(
                    f"its tensors take {total} bytes of {location} of {self.siblings[location]} bytes, "
                    f"expected at most {MAX_ALIASING} times its size"
                )

    # Nodes

    def node(self, span: Span, index: int) -> None:
        fields = self.parse(span, NODE, "NodeProto", f"node {index}")
        name, operator = self.text(fields, "name"), self.text(fields, "op_type")
        domain = _domain(self.text(fields, "domain"))
        kind = f"{domain}::{operator}" if domain else operator
        place = f"node {index} {name!r} ({kind})"
        if operator not in ALLOWED.get(domain, ()):
            self.fault(f"{place}: operator not allowed, expected standard ONNX or the allowed ones of com.microsoft")
        self.absent(fields, ("overload", "device_configurations"), place)
        inputs = self.most(fields.get("input", []), MAX_EDGES, f"inputs of {place}")
        outputs = self.most(fields.get("output", []), MAX_EDGES, f"outputs of {place}")
        names = [self.reader.text(edge, MAX_NAME) for edge in inputs]
        results = [self.reader.text(edge, MAX_NAME) for edge in outputs]
        for attribute in self.most(fields.get("attribute", []), MAX_ATTRIBUTES, f"attributes of {place}"):
            self.attribute(attribute, place, results[0] if operator == "Constant" and results else "")
        shape_input = _SHAPED_BY.get(operator, MAX_EDGES)
        if shape_input < len(names):
            self.shaped.append((place, names[shape_input]))
        self.operators[kind] += 1

    def attribute(self, span: Span, place: str, constant: str) -> None:
        fields = self.parse(span, ATTRIBUTE, "AttributeProto", place)
        place = f"{place}, attribute {self.text(fields, 'name')!r}"
        field = ATTRIBUTE_FIELD.get(fields.get("type", [0])[0])
        held = set(fields) - {"name", "type", "doc_string"}
        # A value equal to the default of its type may be left out on the wire, and an empty list always is.
        if field is None or held - {field}:
            self.fault(f"{place} holds {sorted(held)}, expected plain data of one type: no subgraph, no reference")
        if field == "t" and "t" in fields:
            tensor = self.parse(fields["t"][0], TENSOR, "TensorProto", place)
            self.tensor(tensor, constant, place, may_be_external=False)
        elif field == "ints" and constant:
            self.constants[constant] = self.reader.integers(fields.get("ints", []), MAX_EDGES)

    def constant_shapes(self) -> None:
        for place, name in self.shaped:
            values = self.constants.get(name, ())
            if math.prod(max(abs(v), 1) for v in values) > MAX_CONSTANT_ELEMENTS:
                self.fault(f"{place} makes shape {list(values)}, expected at most {MAX_CONSTANT_ELEMENTS} elements")


def _domain(name: str) -> str:
    return ONNX if name == "ai.onnx" else name
