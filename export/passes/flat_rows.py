"""The tokens of all texts as the rows of one matrix.

Contract: in an encoder's graph what treats every token by itself computes ``(B*S, D)`` in place of ``(B, S, D)``, from
the embeddings that were looked up to the result; an attention, a pooling, and whatever else reads texts gets them as
texts. The same numbers, to the bit but where a float32 product adds in another order.

Why: rounding rows to integers is one operator that wants them in two dimensions (:mod:`.many_rows`). To get there and
back at each product takes six operators, which are a third of those of a whole graph.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .patterns import constant, hand_over_output, is_constant, the_rest

_OF_NUMBERS = frozenset(
    "Abs Add Cast Div Erf Gelu Max Min Mul Relu Round Sigmoid Sub Tanh".split()  # noqa: SIM905
)
"""Operators that keep the shape of what they read, where a constant has a value a feature, or one for all."""
_OF_ROWS = frozenset(["LayerNormalization", "MatMul", "MatMulInteger", "MatMulNBits", "RMSNormalization"])
_FLAT = "edgewise.flat_rows"
_OVER_FEATURES = frozenset(["ReduceMax", "ReduceMean", "ReduceSum", "Split"])


def flatten_rows(model: ir.Model) -> ir.Model:
    """Rewrite ``model`` in place; nodes left without a reader are for the next clean-up."""
    graph = model.graph
    rows = _Rows(graph)
    for node in list(graph):
        if _looks_up(node):
            rows.look_up(node)
        elif _keeps_rows(node):
            for made in node.outputs:
                _mark(made)
        else:
            rows.give_texts(node)
            if node.op_type == "Attention" and "q_num_heads" in node.attributes:  # which reads (B, S, D)
                rows.flatten(node)
    for value in list(graph.outputs):
        if is_flat(value):
            name, texts = value.name, rows.texts(value)
            hand_over_output(graph, value, texts)
            value.name = f"{name}.rows"
    return model


def row_count(graph: ir.Graph, before: ir.Node) -> ir.Value:
    """How many tokens there are, padding included, as a list of one number."""
    all_ids = ir.node("Reshape", [graph.inputs[0], the_rest(graph)])
    count = ir.node("Shape", [all_ids.outputs[0]])
    graph.insert_before(before, [all_ids, count])
    return count.outputs[0]


def is_flat(value: ir.Value) -> bool:
    """Whether :func:`flatten_rows` made ``value`` rows, for passes that come after it."""
    return _FLAT in value.meta


def _mark(value: ir.Value) -> None:
    value.meta[_FLAT] = True


class _Rows:
    """Making rows of what texts were, and texts of rows."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._texts: dict[int, ir.Value] = {}
        self._shape: ir.Value | None = None

    def look_up(self, node: ir.Node) -> None:
        """Rows of an embedding, or of its scales, by tokens in a row of their own."""
        indices = ir.node("Reshape", [node.inputs[1], the_rest(self.graph)])
        self.graph.insert_before(node, indices)
        node.replace_input_with(1, indices.outputs[0])
        _mark(node.outputs[0])

    def give_texts(self, node: ir.Node) -> None:
        """``node`` reads texts."""
        for i, value in enumerate(node.inputs):
            if value is not None and is_flat(value):
                node.replace_input_with(i, self.texts(value))

    def texts(self, value: ir.Value) -> ir.Value:
        """``(B*S, D)`` as ``(B, S, D)``."""
        if id(value) not in self._texts:
            reshape = ir.node("Reshape", [value, self._shape_of_texts()])
            self.graph.insert_after(value.producer(), reshape)  # type: ignore[arg-type]
            self._texts[id(value)] = reshape.outputs[0]
        return self._texts[id(value)]

    def flatten(self, node: ir.Node) -> None:
        """What ``node`` makes of texts, ``(B, S, D)``, as rows."""
        made = node.outputs[0]
        readers = list(made.uses())
        shape = constant(self.graph, f"rows_of_{made.shape[2]}", ir.tensor(np.array([-1, made.shape[2]], np.int64)))  # type: ignore[index]
        reshape = ir.node("Reshape", [made, shape])
        self.graph.insert_after(node, reshape)
        for use in readers:
            use.node.replace_input_with(use.idx, reshape.outputs[0])
        _mark(reshape.outputs[0])

    def _shape_of_texts(self) -> ir.Value:
        if self._shape is None:
            shape = ir.node("Shape", [self.graph.inputs[0]])
            with_features = ir.node("Concat", [shape.outputs[0], the_rest(self.graph)], {"axis": 0})
            self.graph.insert_before(self.graph[0], [shape, with_features])
            self._shape = with_features.outputs[0]
        return self._shape


def _looks_up(node: ir.Node) -> bool:
    """Whether ``node`` reads a row of a stored matrix for every token, and not for every pair of tokens."""
    if node.op_type not in ("Gather", "GatherBlockQuantized") or not is_constant(node.inputs[0]):
        return False
    table, indices = node.inputs[:2]
    assert table is not None and indices is not None
    along_rows = all(node.attributes[n].as_int() == 0 for n in ("axis", "gather_axis") if n in node.attributes)
    maker = indices.producer()
    of_tokens = indices.is_graph_input() or (maker is not None and maker.op_type == "Expand")  # or where they stand
    return along_rows and of_tokens and table.shape is not None and len(table.shape) == 2


def _keeps_rows(node: ir.Node) -> bool:
    """Whether ``node`` reads rows, and gives what it would of texts."""
    read = [value for value in node.inputs if value is not None]
    others = [value for value in read if not is_flat(value)]
    if len(others) == len(read):
        return False
    if node.op_type in _OF_NUMBERS:
        return all(_is_vector(value) for value in others)
    if node.op_type in _OVER_FEATURES:
        return _is_last_axis(node)
    return node.op_type in _OF_ROWS and read[0] not in others and all(map(is_constant, others))


def _is_vector(value: ir.Value) -> bool:
    """A constant of one number or of a value a feature."""
    node = value.producer()
    if node is not None and node.op_type == "Squeeze":  # scales, which are stored as a column
        value = node.inputs[0]  # type: ignore[assignment]
        return value.is_initializer() and value.shape is not None and tuple(value.shape)[1:] == (1,)
    return is_constant(value) and value.shape is not None and len(value.shape) <= 1


def _is_last_axis(node: ir.Node) -> bool:
    if node.op_type == "Split":
        return node.attributes["axis"].as_int() == -1
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    stored = axes.const_value if axes is not None else None
    keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    return stored is not None and stored.numpy().tolist() == [-1] and keeps == 1
