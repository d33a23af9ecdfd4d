"""The bias of relative positions made anew from places: the reference's own numbers, for every row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from edgewise.export.passes.patterns import drop_inputs, finish, name_output
from edgewise.export.passes.ragged_rows import ragged_graph
from edgewise.export.passes.relative_bias import has_relative_bias, is_bias_of_step
from edgewise.export.passes.several_tokens import keeps_rows_apart
from edgewise.export.passes.shared_cache import prefill_graph, step_graph

from ..conftest import Arrays, Exported
from .conftest import compute

pytestmark = pytest.mark.slow
Get = Callable[[str], Exported]
Compare = Callable[..., None]
NETWORK = "encoder-decoder relative"
LENGTHS = [0, 3, 29, 1, 19, 20, 21]  # the farthest distance with a bucket is 20


def _decoder(made: Exported) -> ir.Model:
    return ir.load(made.files["decoder"])


def _alone(model: ir.Model, value: ir.Value | None, inputs: Arrays) -> NDArray[np.float32]:
    """What the graph computes for one of its values, from the inputs that it needs."""
    assert value is not None
    model.graph.outputs.clear()
    name_output(model.graph, value, "bias", ir.DataType.FLOAT, ("rows", 2, 1, "keys"))
    model = finish(model, model.graph.opset_imports[""])
    drop_inputs(model.graph, {v.name for v in model.graph.inputs if v.name and not v.uses()})
    return compute(model, inputs)["bias"]


def _expected(made: Exported, lengths: list[int]) -> NDArray[np.float32]:
    decoder = made.model.decoder
    assert decoder is not None
    assert decoder.relative_bias is not None
    with torch.no_grad():
        found = decoder.relative_bias(torch.tensor(lengths)[:, None], torch.arange(max(lengths) + 1)[None])
    return found.numpy()  # type: ignore[no-any-return]


def test_one_bias_for_all_rows_of_a_step(exported: Get, assert_close: Compare) -> None:
    for length in LENGTHS:
        step = step_graph(_decoder(exported(NETWORK)))
        node = next(node for node in step.graph if node.op_type == "DecoderMaskedMultiHeadAttention")
        found = _alone(step, node.inputs[4], {"past_length": np.array([length], np.int32)})
        assert_close(found, _expected(exported(NETWORK), [length]))


def test_a_bias_for_every_row(exported: Get, assert_close: Compare) -> None:
    """Up to its own token; nothing looks at what is behind."""
    ragged = ragged_graph(step_graph(_decoder(exported(NETWORK))))
    assert ragged is not None
    node = next(node for node in ragged.graph if node.op_type == "GroupQueryAttention")
    lengths = {"row_lengths": np.array(LENGTHS, np.int32), "longest": np.array([max(LENGTHS) + 1], np.int32)}
    found, expected = _alone(ragged, node.inputs[10], lengths), _expected(exported(NETWORK), LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert_close(found[row, :, :, : length + 1], expected[row, :, :, : length + 1])


def test_layers_share_one_bias(exported: Get) -> None:
    step = step_graph(_decoder(exported(NETWORK)))
    attentions = [node for node in step.graph if node.op_type == "DecoderMaskedMultiHeadAttention"]
    assert len(attentions) == 3
    assert len({id(node.inputs[4]) for node in attentions}) == 1
    assert keeps_rows_apart(step)


def test_places_are_not_counted_where_nothing_is_padding(exported: Get) -> None:
    for make in (step_graph, prefill_graph):
        assert not any(node.op_type == "CumSum" for node in make(_decoder(exported(NETWORK))).graph)
    assert any(node.op_type == "CumSum" for node in _decoder(exported(NETWORK)).graph)


def test_what_is_no_such_bias(exported: Get) -> None:
    plain = _decoder(exported("encoder-decoder post relu"))
    assert not any(has_relative_bias(node) for node in plain.graph if node.op_type == "Attention")
    assert not is_bias_of_step(None)
    assert not is_bias_of_step(plain.graph.inputs[0])
    assert not any(is_bias_of_step(value) for node in plain.graph for value in node.outputs)
