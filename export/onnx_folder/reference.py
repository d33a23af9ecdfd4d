"""The reference of a folder of graphs: the graphs themselves, run without a cache and without an engine of ours.

Every step reads the whole prefix again: the encoder, and the decoder without a past; a decoder alone with a past of no
tokens. They run under their own names, before anything of :mod:`.adapt` has touched them; padding there is none. What
the runtime computes with caches, batches and our inputs and outputs is judged by it. Of a decoder too large for that
searches find their tokens through the graphs' own cache, see :mod:`.searches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from ...errors import ExportError
from ...models.beam_rules import Decoded
from ...runtime.bundle.model_spec import ModelSpec
from ...runtime.bundle.scan import graph_spec
from ..cases import Logits, Recorder
from ..effort import SHORTEST_ROOM
from ..probes import Codec
from ..weights import write_graphs
from . import searches
from .adapt import SUPPRESSED

LATER = "later"
Arrays = dict[str, NDArray[Any]]
_MOST_LOGITS = 1 << 26
"""Of one call, which gives them at every position: 256 MiB."""


class NaiveGraphs:
    """Graphs with the names of their exporter, each run by itself: ``encoder`` and ``decoder``, or one of them; beside
    both ``later``, the decoder with a past."""

    def __init__(
        self, graphs: Mapping[str, ir.Model], folder: Path, suppressed: Sequence[int], vocab_size: int
    ) -> None:
        """``folder`` takes the graphs, scanned before anything runs them, for as long as this is in use.

        ``vocab_size``: how many logits of tokens they have to give.

        Raises:
            UnsafeBundleError: a graph holds what no bundle may hold.
            ExportError: ONNX Runtime cannot open it.
        """
        self.suppressed, self.vocab_size = list(suppressed), vocab_size
        files = write_graphs(folder, {name: model.clone() for name, model in graphs.items()})
        for file in files.values():
            graph_spec(file)
        self._sessions = {name: _open(file) for name, file in files.items()}
        self.weights = sum(_elements(model) for name, model in graphs.items() if name != LATER)

    def encode(self, ids: Sequence[int], segments: Sequence[int]) -> Arrays:
        """Every output of the encoder for one text, the batch of one still in front."""
        text = np.array([ids], np.int64)
        feeds = {"input_ids": text, "attention_mask": np.ones_like(text), "token_type_ids": np.array([segments])}
        return self._run("encoder", feeds)

    def next_logits(self, states: NDArray[np.float32] | None, prefixes: Sequence[Sequence[int]]) -> Logits:
        """Logits ``(R, V)`` of the token after each of some prefixes of one length and one source."""
        return self.decode(states, prefixes, {})[0][:, -1]

    def decode(
        self, states: NDArray[np.float32] | None, ids: Sequence[Sequence[int]], past: Arrays
    ) -> tuple[Logits, Arrays]:
        """Logits ``(R, T, V)`` after each of some tokens ``(R, T)`` behind a ``past``, and the past with them.

        ``past``: by the names of the graphs' inputs; empty before the first token.
        """
        tokens = np.array(ids, np.int64)
        before = next((cache.shape[2] for name, cache in past.items() if ".encoder." not in name), 0)
        feeds: Arrays = {"input_ids": tokens, **past}
        if states is not None:
            feeds["encoder_hidden_states"] = states.repeat(len(tokens), axis=0)
            feeds["encoder_attention_mask"] = np.ones(feeds["encoder_hidden_states"].shape[:2], np.int64)
        else:
            feeds["attention_mask"] = np.ones((len(tokens), before + tokens.shape[1]), np.int64)
            feeds["position_ids"] = np.broadcast_to(np.arange(before, before + tokens.shape[1]), tokens.shape)
        found = self._run(LATER if past and states is not None else "decoder", feeds)
        logits: Logits = _as_wide(found["logits"], self.vocab_size).astype(np.float32)
        logits[..., self.suppressed] += SUPPRESSED
        return logits, past | _as_past(found, cross=not past)

    def _run(self, name: str, feeds: Arrays) -> Arrays:
        session = self._sessions[name]
        outputs = [value.name for value in session.get_outputs()]
        given = {value.name: _fed(value, feeds) for value in session.get_inputs()}
        try:
            return dict(zip(outputs, session.run(outputs, given), strict=True))
        except Exception as error:
            raise _failed(f"run the {name}", error) from error


class GraphRecorder(Recorder):
    """What such graphs answer."""

    def __init__(self, graphs: NaiveGraphs, spec: ModelSpec, codec: Codec, max_context: int) -> None:
        super().__init__(spec, graphs.weights, codec, max_context)
        self.graphs = graphs

    def room(self, rows: int) -> int:
        """As always, but no more than the logits at all positions allow."""
        if self.spec.decoder is None:
            return super().room(rows)
        return min(super().room(rows), max(SHORTEST_ROOM, _MOST_LOGITS // (rows * self.spec.vocab_size)))

    def searched(self, spec: ModelSpec, input_ids: tuple[int, ...], limit: int) -> tuple[Decoded, Decoded]:
        """See :class:`~edgewise.export.cases.Recorder`; rules: :mod:`edgewise.models.decode`."""
        states = self._encode(input_ids, None)["last_hidden_state"] if spec.encoder else None
        prompt = spec.decoder_prompt if spec.encoder else input_ids
        search = searches.Search(self.graphs, states, prompt, limit, spec.end_id)
        if self.cached:
            return search.cached_greedy() or search.greedy(), search.cached_beam()
        return search.greedy(), search.beam()

    def vocabulary_logits(self, input_ids: tuple[int, ...], place: int) -> Logits:
        """See :class:`~edgewise.export.cases.Recorder`."""
        found: Logits = self._of_text(input_ids, None, "logits", self.spec.vocab_size)[place]
        return found

    def class_logits(self, input_ids: tuple[int, ...], second_from: int | None) -> Logits:
        """See :class:`~edgewise.export.cases.Recorder`."""
        return self._of_text(input_ids, second_from, "logits", len(self.spec.class_names))

    def token_logits(self, input_ids: tuple[int, ...], second_from: int | None) -> Logits:
        """See :class:`~edgewise.export.cases.Recorder`."""
        if self.spec.head != "span":
            return self._of_text(input_ids, second_from, "logits", len(self.spec.class_names))
        ends = [self._of_text(input_ids, second_from, f"{end}_logits") for end in ("start", "end")]
        return np.stack(ends, axis=-1)

    def vector(self, input_ids: tuple[int, ...]) -> Logits:
        """See :class:`~edgewise.export.cases.Recorder`. Nothing is padded: the mean is that of all states."""
        found = self._encode(input_ids, None)
        if "sentence_embedding" in found:
            vector: Logits = found["sentence_embedding"][0].astype(np.float32)
            return vector
        states = found["last_hidden_state"][0].astype(np.float32)
        vector = states[0] if self.spec.pooling == "first" else states.mean(axis=0)
        return vector / np.linalg.norm(vector) if self.spec.normalize else vector

    def _of_text(
        self, input_ids: tuple[int, ...], second_from: int | None, output: str, width: int | None = None
    ) -> Logits:
        """``width``: the last size of the output, where it is known."""
        found = self._encode(input_ids, second_from)[output]
        logits: Logits = (found if width is None else _as_wide(found, width))[0].astype(np.float32)
        return logits

    def _encode(self, input_ids: tuple[int, ...], second_from: int | None) -> Arrays:
        first = len(input_ids) if second_from is None else second_from
        segments = [0] * first + [self.spec.second_segment] * (len(input_ids) - first)
        return self.graphs.encode(input_ids, segments)


def _open(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # sums in one order
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"], enable_fallback=False)
    except Exception as error:
        raise _failed(f"open {file.name}", error) from error


def _failed(what: str, error: Exception) -> ExportError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ExportError(f"ONNX Runtime {ort.__version__} could not {what}: {first}: export the folder again")


_NUMPY = {"int64": np.int64, "int32": np.int32, "float": np.float32, "float16": np.float16, "bool": np.bool_}


def _fed(value: ort.NodeArg, feeds: Arrays) -> NDArray[Any]:
    """What an input reads: ours as its type, or a past of no tokens."""
    kind = _NUMPY.get(value.type.removeprefix("tensor(").removesuffix(")"))
    if value.name in feeds and kind is not None:
        return feeds[value.name].astype(kind)
    if not value.name.startswith("past_key_values.") or kind is None or len(value.shape) != 4:
        raise ExportError(f"the graph reads {value.name}, which nothing here gives: export the checkpoint itself")
    rows, (_, heads, _, width) = len(feeds["input_ids"]), value.shape
    return np.zeros((rows, heads, 0, width), kind)


def _as_past(found: Arrays, *, cross: bool) -> Arrays:
    """What a graph gives as its ``present``, by the names that it reads it by. What is of the encoder comes with the
    first call alone: later ones have something empty there, or nothing."""
    presents = ((name, cache) for name, cache in found.items() if name.startswith("present."))
    return {
        f"past_key_values.{name.removeprefix('present.')}": cache
        for name, cache in presents
        if cross or ".encoder." not in name
    }


def _elements(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.size for tensor in tensors if tensor is not None)


def _as_wide(logits: NDArray[Any], width: int) -> NDArray[Any]:
    """``logits`` of ``width``: graphs need not declare it, and so are asked by running them."""
    if (given := logits.shape[-1]) != width:
        raise ExportError(
            f"the graphs give logits of {given}, and config.json is of {width}: they belong to different networks"
        )
    return logits
