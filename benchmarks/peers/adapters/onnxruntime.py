"""optimum's graphs without optimum: ONNX Runtime and NumPy, as one would drive them by hand.

Encoder, decoder for the first step, decoder for later ones. Caches come out as arrays and go in again; beams are
reordered by indexing them. Greedy search is an arg-max over the logits; beam search is that of edgewise.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ....runtime.engine import Candidates
from ....runtime.inputs import right_pad
from ....runtime.search import candidates_needed, finish, search
from ..cell import Order, Tokens, until_end

Arrays = dict[str, NDArray[Any]]
Ids = NDArray[np.int64]


class ByHand:
    """The three graphs of one folder."""

    def __init__(self, order: Order) -> None:
        self.order = order
        names = ("encoder_model", "decoder_model", "decoder_with_past_model")
        self.encoder, self.first, self.later = (Graph(_file(order.model, name), order.threads) for name in names)

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request."""
        state = State(self, sources, beam_size)
        start, end = self.order.special_ids["start"], self.order.end_id
        prompts = np.full((len(sources), 1), start, dtype=np.int64)
        if beam_size == 1:
            return [until_end(row, end) for row in _greedy(state, prompts, end, limit).tolist()]
        penalty = self.order.length_penalty
        found = finish(search(state, prompts, [limit] * len(sources), end, beam_size=beam_size, length_penalty=penalty))
        return [until_end(hypotheses[0].tokens, end) for hypotheses in found]

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"onnxruntime": onnxruntime.__version__, "numpy": version("numpy")}


class Graph:
    """One opened graph."""

    def __init__(self, file: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.inputs = [argument.name for argument in self.session.get_inputs()]
        self.outputs = [argument.name for argument in self.session.get_outputs()]

    def run(self, feed: Arrays) -> Arrays:
        """Every output, of those arrays in ``feed`` that it takes."""
        found = self.session.run(self.outputs, {name: feed[name] for name in self.inputs})
        return dict(zip(self.outputs, found, strict=True))


def _file(folder: str, name: str) -> str:
    (file,) = (f for f in Path(folder).glob(f"{name}*.onnx") if f.stem.removesuffix("_quantized") == name)
    return str(file)


def _greedy(state: State, prompts: Ids, end: int, limit: int) -> Ids:
    """Tokens ``(B, T)``."""
    tokens = [state.first_logits(prompts).argmax(-1)]
    ended = tokens[0] == end
    while len(tokens) < limit and not ended.all():
        tokens.append(state.next_logits(tokens[-1]).argmax(-1))
        ended |= tokens[-1] == end
    return np.stack(tokens, 1)


class State:
    """The caches of one request of ``B`` sources and ``K`` beams; a :class:`~edgewise.runtime.engine.DecoderRun`."""

    def __init__(self, graphs: ByHand, sources: Tokens, beams: int) -> None:
        self.graphs, self.beams, self.logits = graphs, beams, np.zeros((0, 0), np.float32)
        ids, mask = right_pad(sources, graphs.order.special_ids["pad"])
        attended = mask.astype(np.int64)
        hidden = graphs.encoder.run({"input_ids": ids, "attention_mask": attended})["last_hidden_state"]
        self.source: Arrays = {"encoder_hidden_states": hidden, "encoder_attention_mask": attended}
        self.past: Arrays = {}

    def first_logits(self, prompts: Ids) -> NDArray[np.float32]:
        """Read ``prompts (B, 1)``: logits ``(B, V)``."""
        return self._run(self.graphs.first, {"input_ids": prompts, **self.source})

    def next_logits(self, ids: Ids) -> NDArray[np.float32]:
        """Read one token a row ``(R,)``: logits ``(R, V)``."""
        return self._run(self.graphs.later, {"input_ids": ids[:, None], **self.source, **self.past})

    def _run(self, graph: Graph, feed: Arrays) -> NDArray[np.float32]:
        found = graph.run(feed)
        self.past |= {k.replace("present", "past_key_values"): v for k, v in found.items() if k.startswith("present")}
        self.logits = found["logits"][:, -1]
        return self.logits

    def prefill(self, ids: Ids) -> Candidates:
        """Read the prompts once a source, then let every beam have the caches."""
        logits = self.first_logits(ids)
        rows = np.arange(len(ids)).repeat(self.beams)
        self._select(rows)
        self.source = {name: value[rows] for name, value in self.source.items()}
        return self._best(logits[rows])

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """As the protocol says. The caches of the source are the same for all beams of a sentence."""
        if (parents != np.arange(len(parents))).any():
            self._select(parents, ".decoder.")
        return self._best(self.next_logits(ids))

    def keep(self, sentences: Ids) -> None:
        """As the protocol says."""
        rows = (sentences[:, None] * self.beams + np.arange(self.beams)).ravel()
        self._select(rows)
        self.source = {name: value[rows] for name, value in self.source.items()}

    def last_logits(self) -> NDArray[np.float32]:
        """As the protocol says."""
        return self.logits

    def _select(self, rows: Ids, part: str = "") -> None:
        self.past |= {name: value[rows] for name, value in self.past.items() if part in name}

    def _best(self, logits: NDArray[np.float32]) -> Candidates:
        wanted = candidates_needed(self.beams)
        near = np.argpartition(-logits, wanted, axis=-1)[:, :wanted]
        near.sort(axis=-1)  # of equals the lower id first
        order = np.argsort(-np.take_along_axis(logits, near, -1), axis=-1, kind="stable")
        ids = np.take_along_axis(near, order, -1)
        norm = logits.max(-1, keepdims=True)
        norm = norm + np.log(np.exp(logits - norm).sum(-1, keepdims=True))
        return Candidates(np.take_along_axis(logits, ids, -1) - norm, ids)


def open_model(order: Order) -> ByHand:
    """Open a folder of optimum's graphs."""
    return ByHand(order)
