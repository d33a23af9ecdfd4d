"""ONNX Runtime on the CPU: shared cache buffers, beams by index, everything bound once.

A run binds its inputs, buffers and outputs to one graph at its start. A step then writes a few integers in place and
calls the engine: no array is made, no cache is copied, no vocabulary-wide row reaches Python.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ...errors import ContextLengthError, EngineError
from ..bundle import Bundle
from ..bundle import signature as names
from ..bundle.manifest import CacheSpec, Variant
from ..engine import Candidates, Floats, Ids, Mask
from .saturation import refuse_saturating_products


def open_variant(bundle: Bundle, variant: Variant, threads: int) -> OnnxRuntimeEngine:
    """Open the graphs of ``variant``.

    Raises:
        EngineError: ONNX Runtime refuses a graph, or this processor's int8 products saturate.
    """
    if any(choice.kernel in ("int8-rows", "int8-tensor") for choice in variant.kernels):
        refuse_saturating_products()
    files = {name: bundle.graph_path(variant, name) for name in variant.graphs}
    vocabulary = bundle.manifest.model.vocab_size
    return OnnxRuntimeEngine(files, variant.cache, vocabulary, threads)


@dataclass(frozen=True)
class _Memory:
    """Cross-attention inputs of encoded sources, by name, and how many sentences they are."""

    inputs: dict[str, NDArray[Any]]
    batch: int


class OnnxRuntimeEngine:
    """An :class:`~edgewise.runtime.engine.Engine` over the graph ``files`` of one variant."""

    def __init__(self, files: Mapping[str, Path], cache: CacheSpec, vocabulary: int, threads: int) -> None:
        self.cache, self.vocabulary, self.threads = cache, vocabulary, threads
        self._files = files
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._opening = threading.Lock()
        for name in (names.ENCODER, names.STEP):
            if name in files:
                self.session(name)

    def session(self, graph: str) -> ort.InferenceSession:
        """The session of a graph; ``prefill`` is opened when first wanted. The lock guards opening, not running."""
        found = self._sessions.get(graph)
        if found is None:
            with self._opening:
                if graph not in self._sessions:
                    self._sessions[graph] = _open(self._files[graph], self.threads)
                found = self._sessions[graph]
        return found

    def encode_source(self, ids: Ids, mask: Mask) -> _Memory:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        session = self.session(names.ENCODER)
        outputs = [output.name for output in session.get_outputs()]
        with _failures(names.ENCODER):
            arrays = session.run(outputs, {names.IDS: ids, names.MASK: mask})
        inputs = dict(zip(outputs, arrays, strict=True))
        return _Memory({**inputs, names.CROSS_MASK: np.ascontiguousarray(mask)}, len(ids))

    def start(self, memory: _Memory | None, batch: int, beams: int, capacity: int, candidates: int) -> OnnxRuntimeRun:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        return OnnxRuntimeRun(self, memory, batch, beams, capacity, candidates)

    def decoder_logits(self, memory: _Memory | None, ids: Ids, mask: Mask) -> Floats:
        """See :class:`~edgewise.runtime.engine.Engine`. Padding stands on the right, where no real token looks."""
        batch, tokens = ids.shape
        everywhere = np.ascontiguousarray(np.broadcast_to(np.arange(tokens), ids.shape))
        call = _Call(self.session(names.PREFILL))
        call.read(names.IDS, np.ascontiguousarray(ids))
        call.read(names.LOGIT_INDEX, everywhere)
        call.read(names.BEAM_WIDTH, np.ones(1, np.int32))
        call.read(names.TOP_COUNT, np.ones(1, np.int64))
        _read_memory(call, memory)
        for name, buffer in new_caches(self.cache, batch, tokens).items():
            call.share(name, buffer)
        logits = call.write(names.LOGITS, (batch, tokens, self.vocabulary), np.float32)
        call.write(names.TOP_LOG_PROBS, (batch, tokens, 1), np.float32)
        call.write(names.TOP_IDS, (batch, tokens, 1), np.int64)
        call.run()
        return _finite(logits)

    def encode(self, ids: Ids, mask: Mask, logit_index: Ids | None) -> tuple[Floats, Floats]:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        session = self.session(names.ENCODER)
        feeds: dict[str, NDArray[Any]] = {names.IDS: ids, names.MASK: mask}
        if any(value.name == names.LOGIT_INDEX for value in session.get_inputs()):
            feeds[names.LOGIT_INDEX] = np.zeros((len(ids), 1), np.int64) if logit_index is None else logit_index
        with _failures(names.ENCODER):
            hidden, logits = session.run([names.HIDDEN, names.LOGITS], feeds)
        return hidden, _finite(logits)

    def describe(self) -> dict[str, Any]:
        """Engine, version, device and threads."""
        return {"engine": "onnxruntime", "version": ort.__version__, "device": "CPU", "threads": self.threads}


class OnnxRuntimeRun:
    """A :class:`~edgewise.runtime.engine.DecoderRun`: its caches, its bound step, and where it stands."""

    def __init__(
        self,
        engine: OnnxRuntimeEngine,
        memory: _Memory | None,
        batch: int,
        beams: int,
        capacity: int,
        candidates: int,
    ) -> None:
        self._engine, self._memory = engine, memory
        self._batch, self._beams, self._capacity = batch, beams, capacity
        self._candidates = min(candidates, engine.vocabulary)
        self._caches = new_caches(engine.cache, batch * beams, capacity)
        self._identity = np.arange(beams, dtype=np.int32)
        self._length = 0
        self._logits: Floats | None = None
        self._bind_step()

    def _bind_step(self) -> None:
        """Bind every tensor of the step graph, once."""
        rows, call = self._batch * self._beams, _Call(self._engine.session(names.STEP))
        self._ids = call.read(names.IDS, np.zeros((rows, 1), np.int64))
        self._past = call.read(names.PAST_LENGTH, np.zeros(1, np.int32))
        call.read(names.BEAM_WIDTH, np.full(1, self._beams, np.int32))
        call.read(names.TOP_COUNT, np.full(1, self._candidates, np.int64))
        shape = (self._batch, self._beams, self._capacity)
        self._indirection = call.read(names.CACHE_INDIRECTION, np.zeros(shape, np.int32))
        _read_memory(call, self._memory)
        for name, buffer in self._caches.items():
            call.share(name, buffer)
        self._step_logits = call.write(names.LOGITS, (rows, self._engine.vocabulary), np.float32)
        log_probs = call.write(names.TOP_LOG_PROBS, (rows, self._candidates), np.float32)
        self._best = Candidates(log_probs, call.write(names.TOP_IDS, (rows, self._candidates), np.int64))
        self._call = call

    def prefill(self, ids: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`. A prompt of one token is a step of every beam."""
        tokens = ids.shape[1]
        self._check_room(tokens)
        if tokens == 1:
            return self._advance(ids[:, 0].repeat(self._beams))
        call = _Call(self._engine.session(names.PREFILL))
        call.read(names.IDS, np.ascontiguousarray(ids))
        call.read(names.LOGIT_INDEX, np.full((self._batch, 1), tokens - 1, np.int64))
        call.read(names.BEAM_WIDTH, np.full(1, self._beams, np.int32))
        call.read(names.TOP_COUNT, np.full(1, self._candidates, np.int64))
        _read_memory(call, self._memory)
        for name, buffer in self._caches.items():
            call.share(name, buffer)
        logits = call.write(names.LOGITS, (self._batch, 1, self._engine.vocabulary), np.float32)
        log_probs = call.write(names.TOP_LOG_PROBS, (self._batch, 1, self._candidates), np.float32)
        best = call.write(names.TOP_IDS, (self._batch, 1, self._candidates), np.int64)
        call.run()
        self._length = tokens
        self._logits = logits[:, 0].repeat(self._beams, axis=0)
        _finite(log_probs)
        return Candidates(log_probs[:, 0].repeat(self._beams, axis=0), best[:, 0].repeat(self._beams, axis=0))

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        self._check_room(1)
        if self._beams > 1:
            self._reorder(parents)
        return self._advance(ids)

    def _reorder(self, parents: Ids) -> None:
        """Each beam inherits from its parent which beam holds each past token: integers, never the cache."""
        flat = self._indirection.reshape(-1, self._capacity)
        flat[:, : self._length] = flat[parents, : self._length]

    def _advance(self, ids: Ids) -> Candidates:
        self._ids[:, 0] = ids
        self._past[0] = self._length
        self._indirection[:, :, self._length] = self._identity
        self._call.run()
        self._length += 1
        self._logits = None
        _finite(self._best.log_probs)
        return self._best

    def _check_room(self, tokens: int) -> None:
        if self._length + tokens > self._capacity:
            raise ContextLengthError(
                f"{self._length + tokens} tokens do not fit the {self._capacity} this run was started for: "
                "start it with more"
            )

    def last_logits(self) -> Floats:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        return self._step_logits if self._logits is None else self._logits


class _Call:
    """Inputs and outputs of one graph, bound to arrays that live as long as this."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._names = {value.name for value in session.get_inputs()}
        self._bound: list[Any] = []

    def read(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Bind ``array`` as an input, where the graph has it; later writes into it are what the graph sees."""
        if name in self._names:
            self._binding.bind_ortvalue_input(name, self._value(array))
        return array

    def share(self, name: str, buffer: NDArray[np.float32]) -> None:
        """Bind one buffer as an input and as the output that goes with it."""
        value = self._value(buffer)
        self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output(names.out_of(name), value)

    def write(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Bind a new array as an output."""
        array = np.zeros(shape, dtype)
        self._binding.bind_ortvalue_output(name, self._value(array))
        return array

    def _value(self, array: NDArray[Any]) -> ort.OrtValue:
        value = ort.OrtValue.ortvalue_from_numpy(array)  # no copy: a CPU value looks at the array's own memory
        self._bound.append((array, value))
        return value

    def run(self) -> None:
        """Run the graph on what is bound."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise _engine_error("run a graph", error) from error


def new_caches(cache: CacheSpec, rows: int, capacity: int) -> dict[str, NDArray[np.float32]]:
    """Zeroed key and value buffers ``(rows, H, capacity, Dh)`` of every layer, by input name."""
    shape = (rows, cache.heads, capacity, cache.head_dim)
    kinds = (names.key_cache, names.value_cache)
    return {name(layer): np.zeros(shape, np.float32) for layer in range(cache.layers) for name in kinds}


def _read_memory(call: _Call, memory: _Memory | None) -> None:
    for name, array in (memory.inputs if memory is not None else {}).items():
        call.read(name, array)


def _finite(values: Floats) -> Floats:
    # A sum is NaN if any term is, and cheaper than a mask; opposite infinities give NaN as well.
    if not math.isfinite(values.sum()):
        raise EngineError(
            "the graph gave values that are not numbers: the weights or this engine are damaged; run `edgewise verify`"
        )
    return values


def _open(file: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    with _failures(f"open {file.name}"):
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"], enable_fallback=False)


@contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _engine_error(what, error) from error


def _engine_error(what: str, error: Exception) -> EngineError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return EngineError(f"ONNX Runtime {ort.__version__} could not {what}: {first}")
