"""ONNX Runtime on the CPU: shared cache buffers, beams by index, everything bound once.

A run binds its inputs, buffers and outputs to one graph at its start. A step then writes a few integers in place and
calls the engine: no array is made, no cache is copied, no vocabulary-wide row reaches Python.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ...errors import ContextLengthError, EngineError
from ..bundle import Bundle
from ..bundle import signature as names
from ..bundle.manifest import CacheSpec, Variant
from ..engine import Candidates, Floats, Ids, Mask, OpenRun
from .saturation import refuse_saturating_products
from .sentences import no_states, whole_sentences


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


_CAPACITY_STEP = 64
"""Capacities are rounded up to a multiple of this, so that runs of like length fit the same buffers."""
_LARGEST_KEPT = 16 << 20
"""Bytes of a step's buffers beyond which they are freed with their run."""
_MOST_KEPT = 8
"""Idle steps an engine keeps."""


class _Sizes(NamedTuple):
    """What the buffers of a run are made for."""

    batch: int
    beams: int
    capacity: int
    candidates: int


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
        self._idle: dict[_Sizes, list[_Step]] = {}
        for name in (names.ENCODER, names.STEP):
            if name in files:
                self.session(name)

    def session(self, graph: str) -> ort.InferenceSession:
        """The session of a graph; all but the encoder and ``step`` are opened when first wanted.

        The lock guards opening, not running.
        """
        found = self._sessions.get(graph)
        if found is None:
            with self._opening:
                if graph not in self._sessions:
                    self._sessions[graph] = _open(self._files[graph], self.threads)
                found = self._sessions[graph]
        return found

    def encode_source(self, ids: Ids, mask: Mask) -> _Memory:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        return self._remember({names.IDS: ids, names.MASK: mask}, mask)

    def encode_features(self, features: Floats) -> _Memory:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        return self._remember({names.FEATURES: features}, None)

    def _remember(self, feeds: dict[str, NDArray[Any]], mask: Mask | None) -> _Memory:
        """What the encoder makes of ``feeds``; ``mask`` of all its states, by default all true."""
        session = self.session(names.ENCODER)
        outputs = [output.name for output in session.get_outputs()]
        with _failures("run the encoder"):
            arrays = session.run(outputs, feeds)
        if mask is None:
            mask = np.ones((arrays[0].shape[0], arrays[0].shape[2]), np.bool_)
        inputs = dict(zip(outputs, arrays, strict=True))
        return _Memory({**inputs, names.CROSS_MASK: np.ascontiguousarray(mask)}, len(mask))

    def start(self, memory: _Memory | None, batch: int, beams: int, capacity: int, candidates: int) -> OnnxRuntimeRun:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        rounded = -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP
        return OnnxRuntimeRun(self, memory, _Sizes(batch, beams, rounded, min(candidates, self.vocabulary)), capacity)

    def open_run(self, beams: int, candidates: int) -> OpenRun | None:
        """See :class:`~edgewise.runtime.engine.Engine`. Bundles of earlier versions lack the graph."""
        if names.RAGGED not in self._files:
            return None
        from .onnxruntime_open import OnnxRuntimeOpenRun

        return OnnxRuntimeOpenRun(self, beams, candidates)

    @property
    def verify_tokens(self) -> int:
        """As many as the graph ``verify`` was made for; 0 without one. Asking opens the graph."""
        if names.VERIFY not in self._files:
            return 0
        ids = next(value for value in self.session(names.VERIFY).get_inputs() if value.name == names.IDS)
        return int(ids.shape[0])

    def start_verifying(self, memory: _Memory | None, capacity: int, candidates: int) -> OnnxRuntimeRun:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        if not self.verify_tokens:
            raise EngineError(f"this variant has no graph {names.VERIFY!r} to speculate with: export the bundle again")
        return self.start(memory, 1, 1, capacity, candidates)

    def take(self, sizes: _Sizes) -> _Step:
        """A bound step of these sizes: an idle one, or a new one."""
        idle = self._idle.get(sizes)
        try:
            return idle.pop() if idle else _Step(self, sizes)
        except IndexError:  # another thread took the last one
            return _Step(self, sizes)

    def give(self, sizes: _Sizes, step: _Step) -> None:
        """Keep the step of a finished run, unless it is large or enough are kept."""
        kept = sum(map(len, list(self._idle.values())))
        if step.nbytes <= _LARGEST_KEPT and kept < _MOST_KEPT:
            self._idle.setdefault(sizes, []).append(step)

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

    def cross_attention(self, memory: _Memory, sentences: Ids, ids: Ids) -> Floats:
        """See :class:`~edgewise.runtime.engine.Engine`. The graph is opened when first wanted."""
        session = self.session(names.ALIGNMENT)
        feeds = whole_sentences(ids) | {name: array[sentences] for name, array in memory.inputs.items()}
        wanted = {value.name for value in session.get_inputs()}
        with _failures("run the alignment graph"):
            (found,) = session.run([names.CROSS_ATTENTION], {n: a for n, a in feeds.items() if n in wanted})
        return _finite(found, "attention weights")

    def encode(
        self, ids: Ids, mask: Mask, logit_index: Ids | None, segments: Ids | None = None
    ) -> tuple[Floats, Floats]:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        session = self.session(names.ENCODER)
        feeds: dict[str, NDArray[Any]] = {names.IDS: ids, names.MASK: mask}
        inputs = {value.name for value in session.get_inputs()}
        if names.SEGMENTS in inputs:
            feeds[names.SEGMENTS] = np.zeros_like(ids) if segments is None else segments
        if names.LOGIT_INDEX in inputs:
            feeds[names.LOGIT_INDEX] = np.zeros((len(ids), 1), np.int64) if logit_index is None else logit_index
        outputs = {value.name for value in session.get_outputs()}
        scores = names.EMBEDDING if names.EMBEDDING in outputs else names.LOGITS
        wanted = [name for name in (scores, names.HIDDEN) if name in outputs]
        with _failures("run the encoder"):
            found, *states = session.run(wanted, feeds)
        hidden = states[0] if states else no_states(ids)
        return _finite(hidden, "hidden states"), _finite(found, scores)

    def describe(self) -> dict[str, Any]:
        """Engine, version, device and threads."""
        return {"engine": "onnxruntime", "version": ort.__version__, "device": "CPU", "threads": self.threads}


class _Step:
    """The step graph with its buffers, bound once; a later run of the same sizes takes it over."""

    def __init__(self, engine: OnnxRuntimeEngine, sizes: _Sizes, wide: _Step | None = None) -> None:
        """``wide``: a step of more sentences, on the front of whose buffers this one works."""
        rows, call = sizes.batch * sizes.beams, _Call(engine.session(names.STEP))
        self.engine, self.sizes, self.call = engine, sizes, call
        self.caches: dict[str, NDArray[np.float32]] = (
            {name: buffer[:rows] for name, buffer in wide.caches.items()}
            if wide
            else new_caches(engine.cache, rows, sizes.capacity)
        )
        self.ids = call.read(names.IDS, np.zeros((rows, 1), np.int64))
        self.past = call.read(names.PAST_LENGTH, np.zeros(1, np.int32))
        call.read(names.BEAM_WIDTH, np.full(1, sizes.beams, np.int32))
        call.read(names.TOP_COUNT, np.full(1, sizes.candidates, np.int64))
        shape = (sizes.batch, sizes.beams, sizes.capacity)
        self.indirection: NDArray[np.int32] = wide.indirection[: sizes.batch] if wide else np.zeros(shape, np.int32)
        call.read(names.CACHE_INDIRECTION, self.indirection)
        for name, buffer in self.caches.items():
            call.share(name, buffer)
        logits = wide.logits[:rows] if wide else np.zeros((rows, engine.vocabulary), np.float32)
        self.logits: Floats = call.write_to(names.LOGITS, logits)
        log_probs = call.write(names.TOP_LOG_PROBS, (rows, sizes.candidates), np.float32)
        self.best = Candidates(log_probs, call.write(names.TOP_IDS, (rows, sizes.candidates), np.int64))

    def keep(self, sentences: Ids, length: int) -> _Step:
        """The step of ``sentences`` alone, ``length`` tokens of which are cached, on these very buffers."""
        moved = np.flatnonzero(sentences != np.arange(len(sentences)))
        beams = np.arange(self.sizes.beams)
        rows, sources = ((places[:, None] * self.sizes.beams + beams).ravel() for places in (moved, sentences[moved]))
        for buffer in self.caches.values():
            buffer[rows, :, :length] = buffer[sources, :, :length]
        self.indirection[moved, :, :length] = self.indirection[sentences[moved], :, :length]
        return _Step(self.engine, self.sizes._replace(batch=len(sentences)), self)

    @cached_property
    def verifying(self) -> _Verify:
        """The verify graph on the buffers of a step of one row."""
        return _Verify(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that grow with the request."""
        return sum(buffer.nbytes for buffer in self.caches.values()) + self.logits.nbytes


class _Verify:
    """The verify graph, bound once to the buffers of a step."""

    def __init__(self, step: _Step) -> None:
        engine, call = step.engine, _Call(step.engine.session(names.VERIFY))
        self.call, self.tokens = call, engine.verify_tokens
        self.ids = call.read(names.IDS, np.zeros((self.tokens, 1), np.int64))
        self.past = call.read(names.PAST_LENGTH, np.zeros(1, np.int32))
        call.read(names.BEAM_WIDTH, np.ones(1, np.int32))
        call.read(names.TOP_COUNT, np.full(1, step.sizes.candidates, np.int64))
        call.read(names.CACHE_INDIRECTION, step.indirection)
        for name, buffer in step.caches.items():
            call.share(name, buffer, [names.written(name, token) for token in range(self.tokens)])
        shape = (self.tokens, step.sizes.candidates)
        self.logits: Floats = call.write(names.LOGITS, (self.tokens, engine.vocabulary), np.float32)
        log_probs = call.write(names.TOP_LOG_PROBS, shape, np.float32)
        self.best = Candidates(log_probs, call.write(names.TOP_IDS, shape, np.int64))


class OnnxRuntimeRun:
    """A :class:`~edgewise.runtime.engine.DecoderRun`: a bound step, and where it stands.

    Its arrays may be another run's once it is gone: copy what outlives it.
    """

    def __init__(self, engine: OnnxRuntimeEngine, memory: _Memory | None, sizes: _Sizes, capacity: int) -> None:
        self._engine, self._memory, self._capacity = engine, memory, capacity
        self._beams, self._candidates = sizes.beams, sizes.candidates
        self._step = engine.take(sizes)
        finalize(self, engine.give, sizes, self._step)
        _read_memory(self._step.call, memory)
        self._identity = np.arange(sizes.beams, dtype=np.int32)
        self._length = 0
        self._logits: Floats | None = None
        self._verifies = False  # whether the verify graph has been given the memory

    def prefill(self, ids: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`. A prompt of one token is a step of every beam."""
        tokens = ids.shape[1]
        self._check_room(tokens)
        if tokens == 1:
            return self._advance(ids[:, 0].repeat(self._beams))
        call, batch = _Call(self._engine.session(names.PREFILL)), len(ids)
        call.read(names.IDS, np.ascontiguousarray(ids))
        call.read(names.LOGIT_INDEX, np.full((batch, 1), tokens - 1, np.int64))
        call.read(names.BEAM_WIDTH, np.full(1, self._beams, np.int32))
        call.read(names.TOP_COUNT, np.full(1, self._candidates, np.int64))
        _read_memory(call, self._memory)
        for name, buffer in self._step.caches.items():
            call.share(name, buffer)
        logits = call.write(names.LOGITS, (batch, 1, self._engine.vocabulary), np.float32)
        log_probs = call.write(names.TOP_LOG_PROBS, (batch, 1, self._candidates), np.float32)
        best = call.write(names.TOP_IDS, (batch, 1, self._candidates), np.int64)
        call.run()
        self._length = tokens
        self._logits = logits[:, 0].repeat(self._beams, axis=0)
        _finite(log_probs, "log-probabilities")
        return Candidates(log_probs[:, 0].repeat(self._beams, axis=0), best[:, 0].repeat(self._beams, axis=0))

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        self._check_room(1)
        if self._beams > 1:
            self._reorder(parents)
        return self._advance(ids)

    def verify(self, ids: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.VerifyingRun`. The graph always reads as many tokens as it was made for:
        what it writes behind ``ids`` is overwritten before anything looks at it.
        """
        verifying, count = self._step.verifying, len(ids)
        self._check_room(verifying.tokens)
        if not self._verifies:
            _read_memory(verifying.call, self._memory)
            self._verifies = True
        verifying.ids[:count, 0], verifying.ids[count:] = ids, 0
        verifying.past[0] = self._length
        verifying.call.run()
        self._length += count
        self._logits = verifying.logits[:count]
        return Candidates(_finite(verifying.best.log_probs[:count], "log-probabilities"), verifying.best.ids[:count])

    def rewind(self, tokens: int) -> None:
        """See :class:`~edgewise.runtime.engine.VerifyingRun`."""
        self._length -= tokens

    def keep(self, sentences: Ids) -> None:
        """See :class:`~edgewise.runtime.engine.DecoderRun`. Rows move into free places; no buffer is made."""
        self._logits = None
        self._step = self._step.keep(sentences, self._length)
        if self._memory is not None:
            kept = {name: array[sentences] for name, array in self._memory.inputs.items()}
            self._memory = _Memory(kept, len(sentences))
            _read_memory(self._step.call, self._memory)

    def _reorder(self, parents: Ids) -> None:
        """Each beam inherits from its parent which beam holds each past token: integers, never the cache.

        But where heads share keys and values ONNX Runtime has no kernel that knows beams, and the cache is copied.
        """
        if names.CACHE_INDIRECTION not in self._step.call.names:
            self._copy_caches(parents)
            return
        flat = self._step.indirection.reshape(len(parents), -1)
        flat[:, : self._length] = flat[parents, : self._length]

    def _copy_caches(self, parents: Ids) -> None:
        moved = np.flatnonzero(parents != np.arange(len(parents)))
        for buffer in self._step.caches.values() if len(moved) else ():
            buffer[moved, :, : self._length] = buffer[parents[moved], :, : self._length]

    def _advance(self, ids: Ids) -> Candidates:
        step = self._step
        step.ids[:, 0] = ids
        step.past[0] = self._length
        step.indirection[:, :, self._length] = self._identity
        step.call.run()
        self._length += 1
        self._logits = None
        _finite(step.best.log_probs, "log-probabilities")
        return step.best

    def _check_room(self, tokens: int) -> None:
        if self._length + tokens > self._capacity:
            raise ContextLengthError(
                f"{self._length + tokens} tokens do not fit the {self._capacity} this run was started for: "
                "start it with more"
            )

    def last_logits(self) -> Floats:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        return self._step.logits if self._logits is None else self._logits


class _Call:
    """Inputs and outputs of one graph, bound to arrays that live as long as this."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._binding = session.io_binding()
        self.names = {value.name for value in session.get_inputs()}
        self._bound: dict[str, Any] = {}

    def read(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Bind ``array`` as an input, where the graph has it; later writes into it are what the graph sees."""
        if name in self.names:
            with _failures(f"bind input {name}"):
                self._binding.bind_ortvalue_input(name, self._value(name, array))
        return array

    def share(self, name: str, buffer: NDArray[np.float32], outputs: Sequence[str] = ()) -> None:
        """Bind one buffer as an input and as the output that goes with it, or as all ``outputs``."""
        value = self._value(name, buffer)
        with _failures(f"bind cache {name}"):
            self._binding.bind_ortvalue_input(name, value)
            for output in outputs or [names.out_of(name)]:
                self._binding.bind_ortvalue_output(output, value)

    def write(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Bind a new array as an output."""
        return self.write_to(name, np.zeros(shape, dtype))

    def write_to(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Bind ``array`` as an output."""
        self._binding.bind_ortvalue_output(name, self._value(name, array))
        return array

    def _value(self, name: str, array: NDArray[Any]) -> ort.OrtValue:
        value = ort.OrtValue.ortvalue_from_numpy(array)  # no copy: a CPU value looks at the array's own memory
        self._bound[name] = (array, value)
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


def _finite(values: Floats, what: str = names.LOGITS) -> Floats:
    # A sum is NaN if any term is, and cheaper than a mask; opposite infinities give NaN as well.
    if not math.isfinite(np.add.reduce(values, axis=None)):
        raise EngineError(
            f"onnxruntime gave {what} that are not numbers, expected finite ones: the weights may be damaged, "
            "run 'edgewise verify'"
        )
    return values


def _open(file: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    # Every session has threads of its own. Without this, those of one graph spin on while another graph runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
