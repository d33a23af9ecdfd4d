"""One file of weights for the graphs of a variant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgewise.export.variants import LAYOUTS, variant_graphs
from edgewise.export.weights import ALIGNMENT, SMALLEST, write_graphs
from edgewise.runtime.bundle.manifest import WEIGHTS_FILE

from .conftest import Arrays, Exported

Places = dict[str, tuple[int, int]]


def _graph(**weights: NDArray[np.float32]) -> ir.Model:
    """``x`` times every weight, summed by name."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("rows", 1)))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="products")
    for name, array in weights.items():
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape))
        value.type = ir.TensorType(ir.DataType.FLOAT)
        graph.register_initializer(value)
        node = ir.node("Mul", [x, value])
        node.outputs[0].name, node.outputs[0].type = f"{name}_out", x.type
        node.outputs[0].shape = ir.Shape(("rows", None))
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=10)


def _places(file: Path) -> Places:
    """Offset and length of every external tensor of a graph."""
    found = {}
    for tensor in onnx.load(file, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entry = {pair.key: pair.value for pair in tensor.external_data}
            assert entry["location"] == WEIGHTS_FILE
            found[tensor.name] = (int(entry["offset"]), int(entry["length"]))
    return found


def _array(seed: int, size: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, size)).astype(np.float32)


def test_equal_tensors_are_stored_once(tmp_path: Path) -> None:
    graphs = {
        "first": _graph(a=_array(1, 100), b=_array(2, 70)),
        "second": _graph(c=_array(2, 70), tied=_array(1, 100).reshape(10, 10)),
    }
    first, second = (_places(file) for file in write_graphs(tmp_path / "out", graphs).values())
    assert first["a"] == second["tied"]
    assert first["b"] == second["c"]
    assert first["a"] != first["b"]
    assert (tmp_path / "out" / WEIGHTS_FILE).stat().st_size == 448 + 280  # 400 bytes, to the next multiple of 64


def test_alignment_and_values(tmp_path: Path) -> None:
    arrays = {f"w{size}": _array(size, size) for size in (65, 67, 100, 129)}
    [file] = write_graphs(tmp_path / "out", {"graph": _graph(**arrays)}).values()
    data = (tmp_path / "out" / WEIGHTS_FILE).read_bytes()
    for name, (offset, length) in _places(file).items():
        assert offset % ALIGNMENT == 0
        assert data[offset : offset + length] == arrays[name].tobytes()


def test_small_tensors_stay_in_the_graph(tmp_path: Path) -> None:
    count = SMALLEST // 4
    graph = _graph(small=_array(1, count - 1), large=_array(2, count))
    [file] = write_graphs(tmp_path / "out", {"graph": graph}).values()
    assert set(_places(file)) == {"large"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_read_them(engine: str, tmp_path: Path, run: Callable[[str, Path, Arrays], Arrays]) -> None:
    arrays = {"small": _array(1, 3), "large": _array(2, 300)}
    [file] = write_graphs(tmp_path / "out", {"graph": _graph(**arrays)}).values()
    outputs = run(engine, file, {"x": np.array([[2.0]], np.float32)})
    for name, array in arrays.items():
        np.testing.assert_array_equal(outputs[f"{name}_out"], 2 * array)


@pytest.mark.slow
@pytest.mark.parametrize("target", LAYOUTS)
def test_graphs_of_a_variant_share_what_both_read(
    target: str, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    made = exported("encoder-decoder post relu")
    portable = {name: ir.load(file) for name, file in made.files.items()}
    files = write_graphs(tmp_path / "out", variant_graphs(portable, target))
    places = [_places(file) for file in files.values()]
    tied = {there["embedding.weight"] for there in places}
    assert len(tied) == 1
    parameters = sum(p.numel() for p in made.model.parameters()) + made.model.positions.numel()
    assert (tmp_path / "out" / WEIGHTS_FILE).stat().st_size < 4 * parameters + ALIGNMENT * 80


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_graphs(tmp_path / name, {"graph": _graph(a=_array(1, 100), b=_array(2, 70))})
    for file in ("graph.onnx", WEIGHTS_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
