"""The graph of several tokens: what goes in and out, and what it refuses. Its numbers: ``tests/engines``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx_ir as ir
import pytest

from edgewise.errors import ExportError
from edgewise.export.passes.several_tokens import keeps_rows_apart, verify_graph
from edgewise.export.passes.shared_cache import step_graph
from edgewise.quantize.graph import matrices, quantize_graph
from edgewise.runtime.bundle import signature as names

from .conftest import session_of

pytestmark = pytest.mark.slow
Portable = Callable[[str, str], ir.Model]
LAYERS = 3
CACHES = [name(layer) for layer in range(LAYERS) for name in (names.key_cache, names.value_cache)]


@pytest.mark.parametrize("tokens", [2, 5])
@pytest.mark.parametrize("network", ["encoder-decoder post relu", "decoder pre gelu"])
def test_attention_alone_is_repeated(network: str, tokens: int, portable: Portable) -> None:
    step = step_graph(portable(network, "decoder"))
    verify = verify_graph(step, tokens)
    before, after = (Counter(node.op_type for node in model.graph) for model in (step, verify))
    attention = {"DecoderMaskedMultiHeadAttention", "MultiHeadAttention"} & set(before)
    assert {name: after[name] for name in attention} == {name: tokens * before[name] for name in attention}
    around = attention | {"Split", "Concat", "Add", "Shape"}
    assert {n: c for n, c in after.items() if n not in around} == {n: c for n, c in before.items() if n not in around}
    session = session_of(verify)
    assert {value.name for value in session.get_inputs()} == {value.name for value in step.graph.inputs}
    written = {names.written(cache, token) for cache in CACHES for token in range(tokens)}
    assert {value.name for value in session.get_outputs()} == {"logits"} | written
    assert next(value.shape for value in session.get_inputs() if value.name == "ids") == [tokens, 1]


def test_the_step_stays_as_it_is(portable: Portable) -> None:
    step = step_graph(portable("encoder-decoder post relu", "decoder"))
    before = ir.to_proto(step).SerializeToString(deterministic=True)
    verify_graph(step)
    assert ir.to_proto(step).SerializeToString(deterministic=True) == before


def test_one_scale_for_all_rows_is_refused(portable: Portable) -> None:
    decoder = portable("decoder post relu", "decoder")
    chosen = {"vocabulary": "int8-tensor"} | {name: "int8-tensor" for _, name, _ in matrices(decoder)}
    step = step_graph(quantize_graph(decoder, chosen))  # type: ignore[arg-type]
    assert not keeps_rows_apart(step)
    with pytest.raises(ExportError, match=r"one activation scale for all rows, or a mask .* expected neither"):
        verify_graph(step)


@pytest.mark.parametrize(("kernel", "place"), [("DecoderMaskedMultiHeadAttention", 4), ("MultiHeadAttention", 5)])
def test_a_bias_of_single_queries_is_refused(kernel: str, place: int, portable: Portable) -> None:
    """It would be that of the first token for all."""
    step = step_graph(portable("encoder-decoder post relu", "decoder"))
    assert keeps_rows_apart(step)
    node = next(node for node in step.graph if node.op_type == kernel)
    node.resize_inputs(max(place + 1, len(node.inputs)))
    node.replace_input_with(place, step.graph.inputs[0])
    assert not keeps_rows_apart(step)
    with pytest.raises(ExportError, match="or a mask of single queries: tokens read together would not get"):
        verify_graph(step)
