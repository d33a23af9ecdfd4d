"""Rows of different lengths: each row's numbers are the portable decoder's for that row alone, whoever its mates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgewise.export.passes.ragged_rows import ragged_graph
from edgewise.export.passes.shared_cache import step_graph
from edgewise.export.variants import variant_graphs
from edgewise.quantize.graph import VOCABULARY, matrices, quantize_graph
from edgewise.quantize.schemes import Kernel
from edgewise.runtime.bundle import signature as names

from ..conftest import NETWORKS, Arrays, Exported
from .conftest import compute, decoder_sizes, random_inputs, session_of

pytestmark = pytest.mark.slow
Get = Callable[[str], Exported]
Compare = Callable[..., None]
DECODERS = [name for name in NETWORKS if "decoder" in name]
CAPACITY, LAYERS = 24, 3
LENGTHS = [0, 3, 17, 1, 9]
BUFFERS = [name(layer) for layer in range(LAYERS) for name in (names.key_cache, names.value_cache)]


def _portable(made: Exported) -> ir.Model:
    return ir.load(made.files["decoder"])


def _ragged(portable: ir.Model) -> ir.Model:
    found = ragged_graph(step_graph(portable))
    assert found is not None
    return found


def _inputs(portable: ir.Model, rows: int) -> Arrays:
    """A sentence a row, with buffers full of numbers that stand for what earlier sentences left."""
    inputs = random_inputs(portable, decoder_sizes(rows, 1, 1, 1))
    rng = np.random.default_rng(7)
    width = inputs[names.past_key(0)].shape[3]
    for name in BUFFERS:
        inputs[name] = rng.standard_normal((rows, 2, CAPACITY, width)).astype(np.float32)
    return inputs


def _run(
    session: onnxruntime.InferenceSession, inputs: Arrays, rows: list[int], more: Arrays | None = None
) -> tuple[NDArray[np.float32], Arrays]:
    """Logits of these rows, and their buffers, which the graph writes into."""
    lengths = np.array([LENGTHS[row] for row in rows], np.int32)
    feeds = {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()}
    feeds |= {names.ROW_LENGTHS: lengths, names.LONGEST: lengths.max(keepdims=True) + 1}
    feeds |= {names.TOP_COUNT: np.ones(1, np.int64)} | (more or {})
    binding, held = session.io_binding(), []
    for value in session.get_inputs():
        held.append(onnxruntime.OrtValue.ortvalue_from_numpy(feeds[value.name]))
        binding.bind_ortvalue_input(value.name, held[-1])
        if value.name in BUFFERS:
            binding.bind_ortvalue_output(names.out_of(value.name), held[-1])
    binding.bind_output(names.LOGITS)
    session.run_with_iobinding(binding)
    return binding.get_outputs()[-1].numpy(), {name: feeds[name] for name in BUFFERS}


@pytest.mark.parametrize("network", DECODERS)
def test_every_row_is_the_portable_decoder_s(network: str, exported: Get, assert_close: Compare) -> None:
    portable = _portable(exported(network))
    inputs = _inputs(portable, len(LENGTHS))
    logits, buffers = _run(session_of(_ragged(portable)), inputs, list(range(len(LENGTHS))))
    for row, length in enumerate(LENGTHS):
        alone = {name: array[row : row + 1] for name, array in inputs.items()}
        alone["positions"] = np.array([[length]])
        alone["key_mask"] = np.ones((1, length + 1), np.bool_)
        alone["logit_index"] = np.zeros((1, 1), np.int64)
        for layer in range(LAYERS):
            alone[names.past_key(layer)] = alone[names.key_cache(layer)][:, :, :length]
            alone[names.past_value(layer)] = alone[names.value_cache(layer)][:, :, :length]
        expected = compute(portable, alone)
        assert_close(logits[row], expected["logits"][0, 0])
        for layer in range(LAYERS):
            for cache, part in ((names.key_cache(layer), "key"), (names.value_cache(layer), "value")):
                assert_close(buffers[cache][row, :, length], expected[f"present_{part}_{layer}"][0, :, length])
                elsewhere = np.arange(CAPACITY) != length
                np.testing.assert_array_equal(buffers[cache][row][:, elsewhere], inputs[cache][row][:, elsewhere])


@pytest.mark.parametrize("network", DECODERS)
def test_mates_change_no_bit_of_a_row(network: str, exported: Get) -> None:
    portable = _portable(exported(network))
    session, inputs = session_of(_ragged(portable)), _inputs(portable, len(LENGTHS))
    together, _ = _run(session, inputs, list(range(len(LENGTHS))))
    for rows in ([0], [2], [4, 1], [3, 2, 0]):
        np.testing.assert_array_equal(_run(session, inputs, rows)[0], together[rows])


def test_what_goes_in(exported: Get) -> None:
    portable = _portable(exported(DECODERS[0]))
    cross = {value.name for value in portable.graph.inputs if value.name and value.name.startswith("cross_")}
    session = session_of(_ragged(portable))
    assert {value.name for value in session.get_inputs()} == {"ids", "row_lengths", "longest", *BUFFERS, *cross}


def test_heads_that_the_kernel_does_not_take(exported: Get) -> None:
    step = step_graph(_portable(exported(DECODERS[0])))
    node = next(node for node in step.graph if node.op_type == "DecoderMaskedMultiHeadAttention")
    cache = node.inputs[5]
    assert cache is not None
    cache.shape = ir.Shape(("rows", 2, "capacity", 12))
    assert ragged_graph(step) is None


def test_scores_that_something_is_added_to(exported: Get) -> None:
    step = step_graph(_portable(exported(DECODERS[0])))
    node = next(node for node in step.graph if node.op_type == "DecoderMaskedMultiHeadAttention")
    node.replace_input_with(4, node.inputs[0])
    assert ragged_graph(step) is None


@pytest.mark.parametrize("kernel", ["int8-rows", "int8-weights"])
def test_graphs_of_quantized_matrices(kernel: Kernel, exported: Get, assert_close: Compare) -> None:
    """Every row gives what ``step`` gives for that row alone, and writes what that writes."""
    made = exported(DECODERS[0])
    portable = {name: ir.load(file) for name, file in made.files.items()}
    chosen = {VOCABULARY: kernel} | {name: kernel for graph in portable.values() for _, name, _ in matrices(graph)}
    graphs = variant_graphs({name: quantize_graph(graph, chosen) for name, graph in portable.items()}, "cpu")
    inputs = _inputs(portable["decoder"], len(LENGTHS))
    logits, buffers = _run(session_of(graphs[names.RAGGED]), inputs, list(range(len(LENGTHS))))
    step = session_of(graphs[names.STEP])
    for row, length in enumerate(LENGTHS):
        feeds = {
            names.PAST_LENGTH: np.array([length], np.int32),
            names.BEAM_WIDTH: np.ones(1, np.int32),
            names.CACHE_INDIRECTION: np.zeros((1, 1, CAPACITY), np.int32),
        }
        alone, written = _run(step, inputs, [row], feeds)
        assert_close(logits[row], alone[0], atol=1e-4)
        for name in BUFFERS:
            assert_close(buffers[name][row], written[name][0], atol=1e-4)
