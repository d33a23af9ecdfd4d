"""Shared cache buffers: the portable decoder's numbers, and nothing of a buffer changed but what was written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgewise.errors import ExportError
from edgewise.export.passes.shared_cache import prefill_graph, step_graph
from edgewise.runtime.bundle import signature as names

from ..conftest import NETWORKS, Arrays, Exported
from .conftest import compute, decoder_sizes, random_inputs, session_of

pytestmark = pytest.mark.slow
Get = Callable[[str], Exported]
Compare = Callable[..., None]
DECODERS = [name for name in NETWORKS if "decoder" in name]
CAPACITY, LAYERS, HEADS = 24, 3, 2
BUFFERS = [name(layer) for layer in range(LAYERS) for name in (names.key_cache, names.value_cache)]


class Graphs:
    """A network's portable decoder, and its step and prefill forms opened."""

    def __init__(self, made: Exported) -> None:
        self.portable = ir.load(made.files["decoder"])
        self.step = session_of(step_graph(self.portable))
        self.prefill = session_of(prefill_graph(self.portable))
        assert made.model.config.decoder is not None
        self.head_width = made.model.config.decoder.head_width


@pytest.fixture(scope="session")
def graphs(exported: Get) -> Callable[[str], Graphs]:
    return cache(lambda network: Graphs(exported(network)))


def _buffers(made: Graphs, rows: int, seed: int = 5) -> Arrays:
    rng, shape = np.random.default_rng(seed), (rows, HEADS, CAPACITY, made.head_width)
    return {name: rng.standard_normal(shape).astype(np.float32) for name in BUFFERS}


def _run_in_place(session: onnxruntime.InferenceSession, inputs: Arrays, buffers: Arrays) -> NDArray[np.float32]:
    """Logits; every buffer is bound as an input and as its output, so that the graph writes into the array itself."""
    binding = session.io_binding()
    held = []
    for value in session.get_inputs():
        array = buffers.get(value.name, inputs.get(value.name))
        assert array is not None, value.name
        held.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
        binding.bind_ortvalue_input(value.name, held[-1])
        if value.name in buffers:
            binding.bind_ortvalue_output(names.out_of(value.name), held[-1])
    binding.bind_output(names.LOGITS)
    session.run_with_iobinding(binding)
    logits: NDArray[np.float32] = binding.get_outputs()[-1].numpy()
    return logits


def _expected(graphs: Graphs, inputs: Arrays) -> Arrays:
    """The portable decoder, told what the other forms take for granted: positions by index, no padding."""
    rows, tokens = inputs["ids"].shape
    past = inputs["past_key_0"].shape[2]
    return compute(
        graphs.portable,
        inputs
        | {
            "positions": np.broadcast_to(np.arange(past, past + tokens), (rows, tokens)).copy(),
            "key_mask": np.ones((rows, past + tokens), np.bool_),
        },
    )


@pytest.mark.parametrize("past", [1, 2, 17])
@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("network", DECODERS)
def test_step(network: str, beams: int, past: int, graphs: Callable[[str], Graphs], assert_close: Compare) -> None:
    """The past of every row lies in buffers of any of its sentence's beams, as ``cache_indirection`` says."""
    batch, made = 2, graphs(network)
    rows = batch * beams
    inputs = random_inputs(made.portable, decoder_sizes(batch, beams, 1, past))
    buffers = _buffers(made, rows)
    owner = np.random.default_rng(past).integers(0, beams, (batch, beams, CAPACITY)).astype(np.int32)
    owner[:, :, past] = np.arange(beams)
    holder = (owner + np.arange(batch)[:, None, None] * beams).reshape(rows, CAPACITY)[:, :past]
    for layer in range(LAYERS):
        for buffer, past_name in ((names.key_cache, names.past_key), (names.value_cache, names.past_value)):
            held = buffers[buffer(layer)][holder, :, np.arange(past)]  # (R, P, H, Dh)
            inputs[past_name(layer)] = np.ascontiguousarray(held.transpose(0, 2, 1, 3))
    expected = _expected(made, inputs | {"logit_index": np.zeros((rows, 1), np.int64)})
    before = {name: buffer.copy() for name, buffer in buffers.items()}
    control: dict[str, Any] = {
        names.PAST_LENGTH: np.array([past], np.int32),
        names.BEAM_WIDTH: np.array([beams], np.int32),
        names.CACHE_INDIRECTION: owner,
    }
    logits = _run_in_place(made.step, inputs | control, buffers)
    assert_close(logits, expected["logits"][:, 0])
    for layer in range(LAYERS):
        for cache_name, part in ((names.key_cache, "key"), (names.value_cache, "value")):
            written = expected[f"present_{part}_{layer}"][:, :, past]
            assert_close(buffers[cache_name(layer)][:, :, past], written)
            elsewhere = np.arange(CAPACITY) != past
            np.testing.assert_array_equal(
                buffers[cache_name(layer)][:, :, elsewhere], before[cache_name(layer)][:, :, elsewhere]
            )


@pytest.mark.parametrize("tokens", [1, 2, 17])
@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("network", DECODERS)
def test_prefill(network: str, beams: int, tokens: int, graphs: Callable[[str], Graphs], assert_close: Compare) -> None:
    """Every beam's buffer gets the prompt's keys and values at its front, and keeps the rest."""
    batch, made = 2, graphs(network)
    inputs = random_inputs(made.portable, decoder_sizes(batch, 1, tokens, 0))
    expected = _expected(made, inputs)
    buffers = _buffers(made, batch * beams)
    before = {name: buffer.copy() for name, buffer in buffers.items()}
    logits = _run_in_place(made.prefill, inputs | {names.BEAM_WIDTH: np.array([beams], np.int32)}, buffers)
    assert_close(logits, expected["logits"])
    for layer in range(LAYERS):
        for cache_name, part in ((names.key_cache, "key"), (names.value_cache, "value")):
            buffer, original = buffers[cache_name(layer)], before[cache_name(layer)]
            assert_close(buffer[:, :, :tokens], expected[f"present_{part}_{layer}"].repeat(beams, axis=0))
            np.testing.assert_array_equal(buffer[:, :, tokens:], original[:, :, tokens:])


def test_padding_on_the_right_is_not_seen(graphs: Callable[[str], Graphs]) -> None:
    made = graphs(DECODERS[0])
    inputs = random_inputs(made.portable, decoder_sizes(2, 1, 6, 0)) | {
        names.BEAM_WIDTH: np.ones(1, np.int32),
        names.LOGIT_INDEX: np.array([[0, 3], [1, 3]]),
    }
    first = _run_in_place(made.prefill, inputs, _buffers(made, 2))
    inputs["ids"][:, 4:] = 0
    np.testing.assert_array_equal(_run_in_place(made.prefill, inputs, _buffers(made, 2)), first)


@pytest.mark.parametrize("network", ["encoder-decoder post relu", "decoder pre gelu"])
def test_what_goes_in_and_out(network: str, graphs: Callable[[str], Graphs]) -> None:
    made = graphs(network)
    cross = {name for name in (v.name for v in made.portable.graph.inputs) if name and name.startswith("cross_")}
    inputs = {"ids", *BUFFERS, *cross}
    outputs = {"logits", *map(names.out_of, BUFFERS)}
    step, prefill = ({v.name for v in s.get_inputs()} for s in (made.step, made.prefill))
    assert step == inputs | {"past_length", "beam_width", "cache_indirection"}
    assert prefill == inputs | {"beam_width", "logit_index"}
    for session in (made.step, made.prefill):
        assert {value.name for value in session.get_outputs()} == outputs


def test_a_graph_of_another_kind(graphs: Callable[[str], Graphs]) -> None:
    """A decoder whose keys are not concatenated is refused by name, not rewritten into something else."""
    model = ir.from_proto(ir.to_proto(graphs(DECODERS[0]).portable))
    node = next(node for node in model.graph if node.name == "decoder.layers.0.attention")
    node.replace_input_with(1, node.inputs[0])
    with pytest.raises(ExportError, match="expected a Concat node before it, found Transpose"):
        step_graph(model)
