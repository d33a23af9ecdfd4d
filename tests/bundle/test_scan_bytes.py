"""The scan of bytes that are no graph: cut off, changed or written by hand, nothing but a typed error comes out."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgewise.errors import EdgewiseError, UnsafeBundleError
from edgewise.runtime.bundle import scan
from edgewise.runtime.bundle.scan import scan_graph

from .test_scan import Siblings, node, scanned

MALFORMED = {
    "unknown field": (b"\xf8\x07\x01", "field 127 is none that ModelProto has"),
    "field 0": (b"\x00\x01", "field 0 is none that ModelProto has"),
    "another wire type": (b"\x09" + b"x" * 8, r"ModelProto.ir_version has wire type 1, expected one of \(0,\)"),
    "group": (b"\x3b\x3c", "ModelProto.graph has wire type 3, expected one of"),
    "payload beyond the end": (b"\x3a\x7fxx", "graph is truncated: 127 bytes announced, 2 there"),
    "payload of exabytes": (
        b"\x3a" + b"\xff" * 9 + b"\x01",
        "graph is truncated: 18446744073709551615 bytes",
    ),
    "integer cut off": (b"\x08\xff", "an integer is truncated"),
    "integer of 11 bytes": (b"\x08" + b"\x80" * 11 + b"\x01", "an integer of more than 10 bytes"),
    "integer of 70 bits": (b"\x08" + b"\xff" * 9 + b"\x7f", "an integer of more than 64 bits"),
    "two graphs": (b"\x08\x0a\x3a\x00\x3a\x00", "ModelProto.graph is given twice"),
    "name not UTF-8": (b"\x08\x0a\x42\x03\x0a\x01\xff", r"a name is not UTF-8: b'\\xff'"),
    "fixed value cut off": (
        b"\x08\x0a\x3a\x0e\x0a\x0c\x22\x04Relu\x2a\x04\x15abc",
        r"f is truncated: 4 bytes",
    ),
    "half a float": (
        b"\x08\x0a\x3a\x0b\x2a\x09\x10\x01\x42\x01a\x22\x02ab",
        "2 bytes do not hold whole numbers of 4 bytes",
    ),
    "packed integer cut off": (
        b"\x08\x0a\x3a\x0a\x2a\x08\x10\x06\x42\x01a\x2a\x01\x80",
        "a packed integer is truncated",
    ),
}


@pytest.mark.parametrize(("raw", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(raw: bytes, message: str) -> None:
    with pytest.raises(UnsafeBundleError, match=rf"g\.onnx: .*{message}"):
        scan_graph(raw, "g.onnx", {})


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch, graph: onnx.ModelProto, siblings: Siblings) -> None:
    monkeypatch.setattr(scan, "MAX_FIELDS", 20)
    with pytest.raises(UnsafeBundleError, match="more fields than a graph needs"):
        scanned(graph, siblings)


def test_truncated_at_every_seventh_byte(graph: onnx.ModelProto, siblings: Siblings) -> None:
    raw = graph.SerializeToString()
    scan_graph(raw, "g.onnx", siblings)
    for end in range(0, len(raw), 7):
        _refused_or_passed(raw[:end], siblings)


def test_random_damage(graph: onnx.ModelProto, siblings: Siblings) -> None:
    """Only a typed error, or a pass, comes out of damaged bytes; most damage is refused."""
    dice = random.Random(20261122)
    node(graph, "Constant", [], value=numpy_helper.from_array(np.ones(3, np.int64)), name="three")
    raw = graph.SerializeToString()
    refused = sum(_refused_or_passed(_damaged(raw, dice), siblings) for _ in range(600))
    assert 300 < refused < 600


def _damaged(raw: bytes, dice: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data))
        kind = dice.randrange(4)
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at] = dice.randrange(256)
        elif kind == 2:
            del data[at : at + dice.randint(1, 8)]
        else:
            data[at:at] = dice.randbytes(dice.randint(1, 8))
    return bytes(data)


def _refused_or_passed(raw: bytes, siblings: Siblings) -> bool:
    try:
        scan_graph(raw, "g.onnx", siblings)
    except EdgewiseError:
        return True
    return False


def test_what_passes_reads_the_same_to_onnx(graph: onnx.ModelProto, siblings: Siblings) -> None:
    """Damage that the scan lets through must not mean something else to a real parser."""
    dice = random.Random(7)
    raw = graph.SerializeToString()
    for _ in range(600):
        data = _damaged(raw, dice)
        try:
            found = scan_graph(data, "g.onnx", siblings)
        except EdgewiseError:
            continue
        model = onnx.ModelProto.FromString(data)
        names = [n.op_type for n in model.graph.node]
        assert sorted(found.operators.elements()) == sorted(names)
        assert [t.name for t in found.inputs] == [t.name for t in model.graph.input]
        assert not model.functions


def test_empty_file() -> None:
    with pytest.raises(UnsafeBundleError, match="ONNX IR version 0, expected 4 or newer"):
        scan_graph(b"", "g.onnx", {})
