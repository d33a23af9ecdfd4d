"""The portable decoder as a stateful OpenVINO model: caches inside, beams reordered inside, candidates chosen inside.

Inputs and outputs change so::

    past_key_{i}, past_value_{i}        -> states of an infer request, empty after ``reset_state``
    present_key_{i}, present_value_{i}  -> written back to them
    + beam_idx (R,) int32               row r continues the state of row beam_idx[r]; R may differ from the state's rows
    + top_count (1,) int64               k
    + top_log_probs (R, N, k) float32, top_ids (R, N, k) int64    beside logits (R, N, V)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bundle import signature as names

_BLOCK = 32
"""Words compared at a time when candidates are chosen; near sqrt(V / k) little is left to sort."""


def make_stateful(model: Any, layers: int) -> None:
    """Rewrite the portable decoder ``model`` (``openvino.Model``) of so many ``layers`` in place, as said above."""
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    _reorder_pasts(model, layers, opset13)
    _choose_candidates(model, opset13)
    pairs = {}
    for i in range(layers):
        pairs[names.past_key(i)] = names.present_key(i)
        pairs[names.past_value(i)] = names.present_value(i)
    apply_make_stateful_transformation(model, pairs)
    _begin_empty(model, opset13)
    model.validate_nodes_and_infer_types()


def _reorder_pasts(model: Any, layers: int, ops: Any) -> None:
    """Whoever reads a past reads ``Gather(past, beam_idx)``."""
    beam_idx = _parameter(model, names.BEAM_INDEX, np.int32, [-1], ops)
    for name in (n(i) for i in range(layers) for n in (names.past_key, names.past_value)):
        past = model.input(name)
        readers = past.get_target_inputs()
        gathered = ops.gather(past, beam_idx, ops.constant(0, dtype=np.int64))
        for reader in readers:
            reader.replace_source_output(gathered.output(0))


def _choose_candidates(model: Any, ops: Any) -> None:
    """The ``top_count`` best by log-softmax, of equals the lower id first.

    One TopK over the vocabulary would cost more than the layers do. The ``k`` best words lie in the ``k`` blocks with
    the largest maxima (of equals the first blocks), so only the words of these are sorted.
    """
    k = ops.squeeze(_parameter(model, names.TOP_COUNT, np.int64, [1], ops), ops.constant([0]))
    blocks = _blocks(model.output(names.LOGITS).get_node().input_value(0), ops)  # (R, N, G, 32)
    maxima = ops.reduce_max(blocks, -1)  # (R, N, G)
    n_blocks = blocks.get_output_partial_shape(0)[2].get_length()
    chosen = ops.topk(maxima, ops.minimum(k, ops.constant(np.int64(n_blocks))), -1, "max", "index", stable=True).output(
        1
    )
    words = ops.reshape(ops.gather(blocks, chosen, 2, batch_dims=2), [0, 0, -1], special_zero=True)
    best = ops.topk(words, k, -1, "max", "value", stable=True)
    block, word = (op(best.output(1), ops.constant(np.int32(_BLOCK))) for op in (ops.divide, ops.floor_mod))
    ids = ops.add(ops.multiply(ops.gather(chosen, block, 2, batch_dims=2), ops.constant(np.int32(_BLOCK))), word)
    log_probs = ops.subtract(best.output(0), _log_sum_exp(blocks, maxima, ops))
    for node, name in ((log_probs, names.TOP_LOG_PROBS), (ops.convert(ids, np.int64), names.TOP_IDS)):
        node.output(0).get_tensor().set_names({name})
        model.add_results([ops.result(node)])


def _blocks(logits: Any, ops: Any) -> Any:
    """``(R, N, V) -> (R, N, G, 32)``, filled up with minus infinity."""
    missing = -logits.get_partial_shape()[2].get_length() % _BLOCK
    if missing:
        logits = ops.pad(logits, [0, 0, 0], [0, 0, missing], "constant", ops.constant(np.float32(-np.inf)))
    return ops.reshape(logits, [0, 0, -1, _BLOCK], special_zero=True)


def _log_sum_exp(blocks: Any, maxima: Any, ops: Any) -> Any:
    """``(R, N, G, 32)`` and its maxima ``(R, N, G) -> (R, N, 1)``."""
    largest = ops.reduce_max(maxima, -1, keep_dims=True)  # (R, N, 1)
    shifted = ops.exp(ops.subtract(blocks, ops.unsqueeze(largest, -1)))
    return ops.add(largest, ops.log(ops.unsqueeze(ops.reduce_sum(shifted, [-2, -1]), -1)))


def _begin_empty(model: Any, ops: Any) -> None:
    """Give every state an initial value, zeros of length 0 with a row for each of ``beam_idx``: needed to compile."""
    rows = ops.shape_of(model.input(names.BEAM_INDEX), output_type="i64")
    for node in model.get_ops():
        if node.get_type_name() != "ReadValue":
            continue
        _, heads, _, width = node.get_output_partial_shape(0)
        rest = ops.constant(np.array([heads.get_length(), 0, width.get_length()], np.int64))
        node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), ops.concat([rows, rest], 0)).output(0)])


def _parameter(model: Any, name: str, dtype: Any, shape: list[int], ops: Any) -> Any:
    from openvino import PartialShape

    parameter = ops.parameter(PartialShape(shape), dtype, name)
    parameter.output(0).get_tensor().set_names({name})
    model.add_parameters([parameter])
    return parameter
