"""Merged decoders whose branches have weights and values of their own, called as others around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgewise.runtime.load import load

from .exported import bundle, copied, expected, export


def weights_inside(file: Path) -> None:
    """Each branch gets what it reads of the weights around it, which then are others; a value has a namesake, too."""
    model = onnx.load(file)
    (choice,) = model.graph.node
    for branch in choice.attribute:
        read = {name for node in branch.g.node for name in node.input}
        branch.g.initializer.extend([weight for weight in model.graph.initializer if weight.name in read])
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            other = np.full_like(numpy_helper.to_array(weight), 7.0)
            weight.CopyFrom(numpy_helper.from_array(other, weight.name))
    inner = choice.attribute[0].g.node[0].output[0]
    around = helper.make_node("Constant", [], [inner], value=numpy_helper.from_array(np.zeros(3, np.float32)))
    model.graph.node.insert(0, around)
    file.write_bytes(model.SerializeToString())


def test_weights_of_a_branch_go_before_those_around_it(tmp_path: Path) -> None:
    folder = copied("t5", tmp_path)
    weights_inside(folder / "decoder_model_merged.onnx")
    export(folder, tmp_path / "bundle", ("cpu",))
    stored, usual = (path / "cpu-fp32" / "weights.bin" for path in (tmp_path / "bundle", bundle("t5")))
    assert stored.stat().st_size == usual.stat().st_size  # what both branches read is still stored once
    with load(tmp_path / "bundle", threads=1) as session:
        assert session.verify().ok
        for row in expected("t5"):
            found = session.translate(row["text"], beam_size=1, max_new_tokens=8)
            assert list(found.tokens) == row["greedy"]
