"""Graphs of another exporter in the portable form of a bundle.

Contract: the mathematics stays. Inputs and outputs get the names of :mod:`edgewise.runtime.bundle.signature`; masks
come in as booleans; logits are given at ``logit_index`` alone, those of ``suppressed`` tokens lowered beyond reach; of
a text's states one vector is made as the settings say. An input that nothing of ours feeds is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from ...errors import ExportError
from ...runtime.bundle import signature as names
from ..passes.patterns import add_input, constant, finish, name_output

SUPPRESSED = -200.0
"""Added to the logit of what may not be generated: its probability is 0 in float32, its neighbours lose no digits."""
OLDEST_OPSET = 12
"""The first whose ``GatherND`` knows batches."""
_PAST = re.compile(r"past_key_values\.(\d{1,3})\.(?:(decoder|encoder)\.)?(key|value)")
_PRESENT = re.compile(r"present\.(\d{1,3})\.(?:(decoder|encoder)\.)?(key|value)")
_OURS = {
    ("decoder", "key"): (names.past_key, names.present_key),
    ("decoder", "value"): (names.past_value, names.present_value),
    ("encoder", "key"): (names.cross_key, names.cross_key),
    ("encoder", "value"): (names.cross_value, names.cross_value),
}


class Adapter:
    """One graph on its way; ``where`` begins messages."""

    def __init__(self, model: ir.Model, where: str) -> None:
        self.model, self.where = model.clone(), where
        self.graph = self.model.graph
        common.RemoveInitializersFromInputsPass()(self.model)
        opset = self.graph.opset_imports.get("", 0)
        if opset < OLDEST_OPSET:
            raise ExportError(f"{where} is of operator set {opset}, expected {OLDEST_OPSET} or newer: export it again")
        self.given = {value.name or "": value for value in self.graph.inputs}
        self.made = {value.name or "": value for value in self.graph.outputs}
        self.graph.outputs.clear()
        for name, value in self.made.items():
            value.name = f"{name}.theirs"  # ours may have the same one

    def done(self) -> ir.Model:
        """The finished graph.

        Raises:
            ExportError: an input is left that nothing feeds.
        """
        for value in list(self.graph.inputs):
            if value.name in self.given and not value.uses():
                self.graph.inputs.remove(value)
                del self.given[value.name or ""]
        if self.given:
            raise ExportError(
                f"{self.where} reads {', '.join(sorted(self.given))}, which nothing here gives: export the checkpoint "
                "itself, or export it with another task"
            )
        for step in (
            common.LiftConstantsToInitializersPass(),
            common.DeduplicateHashedInitializersPass(),
            common.ClearMetadataAndDocStringPass(),
        ):
            step(self.model)
        finish(self.model, self.graph.opset_imports[""])
        common.RemoveUnusedOpsetsPass()(self.model)
        self.model.functions.clear()
        return self.model

    def read(self, theirs: str, ours: str, dtype: ir.DataType, shape: Sequence[int | str]) -> bool:
        """Where the graph has the input ``theirs``, it is ``ours`` from now on, cast if need be."""
        old = self.given.pop(theirs, None)
        if old is None:
            return False
        self.graph.inputs.remove(old)
        new = add_input(self.graph, ours, dtype, tuple(shape))
        source = new if old.dtype == dtype else self.node("Cast", [new], to=old.dtype)
        for use in list(old.uses()):
            use.node.replace_input_with(use.idx, source)
        return True

    def need(self, theirs: str, last: int | None = None) -> ir.Value:
        """An output of theirs, whose last dimension is ``last``.

        Raises:
            ExportError: there is none, or another size is there.
        """
        if theirs not in self.made:
            raise ExportError(f"{self.where} gives {', '.join(self.made)}, expected {theirs} among them")
        value = self.made[theirs]
        dims = tuple(value.shape.dims) if value.shape is not None else ()
        if last is not None and dims and isinstance(dims[-1], int) and dims[-1] != last:
            raise ExportError(
                f"{self.where} gives {theirs} of {dims[-1]}, and config.json is of {last}: they belong to different "
                "networks"
            )
        return value

    def node(self, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """The result of a new node at the end of the graph."""
        node = ir.node(op_type, inputs, attributes)
        self.graph.append(node)
        return node.outputs[0]

    def integers(self, name: str, *values: int) -> ir.Value:
        """A constant vector of integers."""
        return constant(self.graph, f"edgewise.{name}", ir.tensor(np.array(values, np.int64)))

    def write(self, value: ir.Value, ours: str, shape: Sequence[int | str]) -> None:
        """``value``, of float32 from here on, as the output ``ours``."""
        if value.dtype != ir.DataType.FLOAT or value.producer() is None:
            value = self.node("Cast", [value], to=ir.DataType.FLOAT)
        name_output(self.graph, value, ours, ir.DataType.FLOAT, tuple(shape))

    def write_logits(self, rows: str, suppressed: Sequence[int], vocab_size: int) -> None:
        """Logits ``(B, T, V)`` at ``logit_index (B, N)``."""
        logits = self.need("logits", vocab_size)
        if logits.dtype != ir.DataType.FLOAT:
            logits = self.node("Cast", [logits], to=ir.DataType.FLOAT)
        if suppressed:
            bias = np.zeros(vocab_size, np.float32)
            bias[list(suppressed)] = SUPPRESSED
            logits = self.node("Add", [logits, constant(self.graph, "edgewise.suppressed", ir.tensor(bias))])
        index = add_input(self.graph, names.LOGIT_INDEX, ir.DataType.INT64, (rows, "logits"))
        places = self.node("Reshape", [index, self.integers("places", 0, -1, 1)])  # (B, N) -> (B, N, 1)
        chosen = self.node("GatherND", [logits, places], batch_dims=1)  # (B, N, V)
        name_output(self.graph, chosen, names.LOGITS, ir.DataType.FLOAT, (rows, "logits", vocab_size))


def encoder_beside_decoder(model: ir.Model, where: str, width: int) -> ir.Model:
    """An encoder's graph: ids and mask to hidden states."""
    adapter = Adapter(model, where)
    _read_text(adapter)
    adapter.write(adapter.need("last_hidden_state", width), names.HIDDEN, ("batch", "source", width))
    return adapter.done()


def first_call(model: ir.Model, where: str, width: int, vocab_size: int, suppressed: Sequence[int]) -> ir.Model:
    """A decoder without a past: ids and the encoder's states to logits, caches, and cross-attention K/V."""
    adapter = Adapter(model, where)
    adapter.read("input_ids", names.IDS, ir.DataType.INT64, ("rows", "tokens"))
    adapter.read("encoder_hidden_states", names.HIDDEN, ir.DataType.FLOAT, ("rows", "source", width))
    adapter.read("encoder_attention_mask", names.CROSS_MASK, ir.DataType.BOOL, ("rows", "source"))
    adapter.write_logits("rows", suppressed, vocab_size)
    _write_caches(adapter, cross=True)
    return adapter.done()


def later_call(model: ir.Model, where: str, vocab_size: int, suppressed: Sequence[int]) -> ir.Model:
    """A decoder beside an encoder with a past: one token a row."""
    adapter = Adapter(model, where)
    adapter.read("input_ids", names.IDS, ir.DataType.INT64, ("rows", 1))
    adapter.read("encoder_attention_mask", names.CROSS_MASK, ir.DataType.BOOL, ("rows", "source"))
    _read_pasts(adapter)
    adapter.write_logits("rows", suppressed, vocab_size)
    _write_caches(adapter, cross=False)
    return adapter.done()


def decoder_alone(model: ir.Model, where: str, vocab_size: int, suppressed: Sequence[int]) -> ir.Model:
    """A decoder alone: any number of tokens after any past."""
    adapter = Adapter(model, where)
    adapter.read("input_ids", names.IDS, ir.DataType.INT64, ("rows", "tokens"))
    adapter.read("position_ids", names.POSITIONS, ir.DataType.INT64, ("rows", "tokens"))
    adapter.read("attention_mask", names.KEY_MASK, ir.DataType.BOOL, ("rows", "keys"))
    _read_pasts(adapter)
    adapter.write_logits("rows", suppressed, vocab_size)
    _write_caches(adapter, cross=False)
    return adapter.done()


def encoder_alone(model: ir.Model, where: str, spec: dict[str, Any]) -> ir.Model:
    """An encoder with the head that ``spec``, a ``ModelConfig`` as JSON, names."""
    adapter = Adapter(model, where)
    _read_text(adapter)
    adapter.read("token_type_ids", names.SEGMENTS, ir.DataType.INT64, ("batch", "source"))
    head, classes = spec["head"], len(spec["class_names"])
    if head == "vocabulary":
        adapter.write_logits("batch", (), spec["vocab_size"])
    elif head == "classes":
        adapter.write(adapter.need("logits", classes), names.LOGITS, ("batch", classes))
    elif head == "tags":
        adapter.write(adapter.need("logits", classes), names.LOGITS, ("batch", "source", classes))
    elif head == "span":
        columns = [adapter.need(f"{end}_logits") for end in ("start", "end")]
        last = adapter.integers("column", 0, 0, 1)
        columns = [adapter.node("Reshape", [column, last]) for column in columns]  # (B, S) -> (B, S, 1)
        adapter.write(adapter.node("Concat", columns, axis=-1), names.LOGITS, ("batch", "source", 2))
    else:
        _write_vector(adapter, spec)
    for states in ("last_hidden_state", "token_embeddings"):
        if states in adapter.made:
            adapter.write(adapter.made[states], names.HIDDEN, ("batch", "source", spec["encoder"]["d_model"]))
            break
    return adapter.done()


def _read_text(adapter: Adapter) -> None:
    adapter.read("input_ids", names.IDS, ir.DataType.INT64, ("batch", "source"))
    if not adapter.read("attention_mask", names.MASK, ir.DataType.BOOL, ("batch", "source")):
        raise ExportError(f"{adapter.where} has no input attention_mask: texts of several lengths cannot share a batch")


def _write_vector(adapter: Adapter, spec: dict[str, Any]) -> None:
    """One vector of a text's states: the mean of those of its tokens, or the first; normalized, or not."""
    width = spec["encoder"]["d_model"]
    if "sentence_embedding" in adapter.made:  # pooled and normalized by the exporter, as its folder says
        adapter.write(adapter.made["sentence_embedding"], names.EMBEDDING, ("batch", width))
        return
    states = adapter.need("last_hidden_state", width)
    if spec["pooling"] == "first":
        vector = adapter.node("Gather", [states, adapter.integers("first", 0)], axis=1)  # (B, 1, D)
    else:
        mask = next(value for value in adapter.graph.inputs if value.name == names.MASK)
        weights = adapter.node("Cast", [mask], to=ir.DataType.FLOAT)
        rows = adapter.node("Reshape", [weights, adapter.integers("row", 0, 1, -1)])  # (B, S) -> (B, 1, S)
        turned = adapter.node("Transpose", [rows], perm=[0, 2, 1])  # (B, S, 1)
        counts = adapter.node("MatMul", [rows, turned])  # (B, 1, 1): how many tokens
        vector = adapter.node("Div", [adapter.node("MatMul", [rows, states]), counts])  # (B, 1, D)
    if spec["normalize"]:
        squares = adapter.node("MatMul", [vector, adapter.node("Transpose", [vector], perm=[0, 2, 1])])  # (B, 1, 1)
        vector = adapter.node("Div", [vector, adapter.node("Sqrt", [squares])])
    vector = adapter.node("Reshape", [vector, adapter.integers("vector", 0, -1)])  # (B, D)
    adapter.write(vector, names.EMBEDDING, ("batch", width))


def _read_pasts(adapter: Adapter) -> None:
    for theirs, value in list(adapter.given.items()):
        if match := _PAST.fullmatch(theirs):
            layer, stack, kind = match.groups()
            heads, width = cache_size(value, adapter.where)
            length = "source" if stack == "encoder" else "past"
            ours = _OURS[stack or "decoder", kind][0](int(layer))
            adapter.read(theirs, ours, ir.DataType.FLOAT, ("rows", heads, length, width))


def _write_caches(adapter: Adapter, *, cross: bool) -> None:
    for theirs, value in list(adapter.made.items()):
        if match := _PRESENT.fullmatch(theirs):
            layer, stack, kind = match.groups()
            if stack == "encoder" and not cross:
                continue
            heads, width = cache_size(value, adapter.where)
            length = "source" if stack == "encoder" else "keys"
            ours = _OURS[stack or "decoder", kind][1](int(layer))
            adapter.write(value, ours, ("rows", heads, length, width))


def cache_size(value: ir.Value, where: str) -> tuple[int, int]:
    """Heads and their width of a cache ``(R, H, P, Dh)``.

    Raises:
        ExportError: it is none.
    """
    dims = tuple(value.shape.dims) if value.shape is not None else ()
    heads, width = (dims[1], dims[3]) if len(dims) == 4 else (None, None)
    if not isinstance(heads, int) or not isinstance(width, int):
        shown = ", ".join(map(str, dims))
        raise ExportError(f"{where}: {value.name} has shape ({shown}), expected (rows, heads, length, width)")
    return heads, width
