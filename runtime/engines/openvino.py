"""OpenVINO: the portable graphs with a stateful decoder, precision pinned so that fp32 means fp32.

Left to itself OpenVINO computes in bf16 and keeps the cache in u8 where the processor can. Here every compilation says
``f32`` for both; in the int8 variants, and only there, it may quantize the activations that meet int8 weights, row by
row in groups of 32, which leaves a row's result free of its batch mates.

A request of the library holds the caches of one run, so runs share no state; idle requests wait in a pool for the next
run. Nothing is cached on disk: the library loads a damaged cache entry without complaint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ...errors import ContextLengthError, EngineError, MissingExtraError, TargetError
from ..bundle import Bundle
from ..bundle import signature as names
from ..bundle.manifest import Variant
from ..engine import Candidates, Floats, Ids, Mask, OpenRun, VerifyingRun
from .sentences import no_states, whole_sentences

_FLOAT32 = "fp32"
_INT8_GROUP = "32"


class _Memory(NamedTuple):
    """Encoded sources: cross-attention inputs of the decoder by name, and how many sentences they are."""

    inputs: dict[str, Any]
    batch: int


def open_variant(bundle: Bundle, variant: Variant, target: str, threads: int) -> OpenVinoEngine:
    """Compile the graphs of ``variant`` for ``target``: ``openvino``, ``openvino:GPU`` or ``openvino:NPU``.

    Raises:
        MissingExtraError: openvino is not installed.
        TargetError: this machine has no such device.
        EngineError: openvino cannot read or compile a graph.
    """
    graphs = {name: bundle.graph_path(variant, name) for name in variant.graphs}
    return OpenVinoEngine(graphs, target.partition(":")[2] or "CPU", variant.precision, threads)


class OpenVinoEngine:
    """An :class:`~edgewise.runtime.engine.Engine` over compiled ``graphs`` (name -> file), on one ``device``."""

    def __init__(self, graphs: Mapping[str, Path], device: str, precision: str, threads: int) -> None:
        self._library = _library()
        core = self._library.Core()
        _check_device(core, device)
        self.device, self.threads, self.precision = device, threads, precision
        self._core, self._alignment_file = core, graphs.get(names.ALIGNMENT)
        compiled = {name: self._compile(core, name, file) for name, file in graphs.items() if name != names.ALIGNMENT}
        self._encoder = _Pool(compiled[names.ENCODER]) if names.ENCODER in compiled else None
        self._decoder = _Pool(compiled[names.DECODER]) if names.DECODER in compiled else None

    def _compile(self, core: Any, name: str, file: Path) -> Any:
        from .openvino_graph import make_stateful

        with _failures(f"compile {file.name} for {self.device}"):
            model = core.read_model(file)
            if name == names.DECODER:
                make_stateful(model, sum(n.startswith(names.past_key(0)[:-1]) for n in _input_names(model)))
            return core.compile_model(model, self.device, _settings(self.device, self.precision, self.threads))

    def encode_source(self, ids: Ids, mask: Mask) -> _Memory:
        """See :class:`~edgewise.runtime.engine.Engine`; the result holds copies, free of this engine's requests."""
        return self._remember({names.IDS: ids, names.MASK: mask}, mask)

    def encode_features(self, features: Floats) -> _Memory:
        """See :class:`~edgewise.runtime.engine.Engine`; as :meth:`encode_source`."""
        return self._remember({names.FEATURES: features}, None)

    def _remember(self, feeds: Mapping[str, NDArray[Any]], mask: Mask | None) -> _Memory:
        """What the encoder makes of ``feeds``; ``mask`` of all its states, by default all true."""
        assert self._encoder is not None
        with self._encoder.borrow() as request:
            outputs = _infer(request, feeds, self._cross_names())
        if mask is None:
            first = next(iter(outputs.values()))
            mask = np.ones((first.shape[0], first.shape[2]), np.bool_)
        tensors = {name: _tensor(value) for name, value in (outputs | {names.CROSS_MASK: mask}).items()}
        return _Memory(tensors, len(mask))

    def _cross_names(self) -> list[str]:
        assert self._decoder is not None
        return [name for name in self._decoder.inputs if name.startswith("cross_") and name != names.CROSS_MASK]

    def start(self, memory: _Memory | None, batch: int, beams: int, capacity: int, candidates: int) -> OpenVinoRun:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        assert self._decoder is not None
        return OpenVinoRun(self._decoder, memory, batch, beams, capacity, candidates)

    def open_run(self, beams: int, candidates: int) -> OpenRun:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        from .openvino_open import OpenVinoOpenRun

        assert self._decoder is not None
        return OpenVinoOpenRun(self._decoder, beams, candidates)

    @property
    def verify_tokens(self) -> int:
        """None: the states of a request only grow, and another number of tokens is summed in another order."""
        return 0

    def start_verifying(self, memory: _Memory | None, capacity: int, candidates: int) -> VerifyingRun:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        raise EngineError("openvino's cache takes no token back: open target 'cpu' to speculate")

    def decoder_logits(self, memory: _Memory | None, ids: Ids, mask: Mask) -> Floats:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        assert self._decoder is not None
        everywhere = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        inputs = _step_inputs(ids, everywhere, mask, everywhere, np.arange(len(ids)), 1)
        with self._decoder.borrow() as request:
            request.reset_state()
            _set(request, _cross(memory))
            return _checked(_infer(request, inputs, [names.LOGITS])[names.LOGITS], names.LOGITS)

    def cross_attention(self, memory: _Memory, sentences: Ids, ids: Ids) -> Floats:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        pool = self._alignment
        cross = {name: tensor.data[sentences] for name, tensor in memory.inputs.items()}
        inputs = {name: array for name, array in (whole_sentences(ids) | cross).items() if name in pool.inputs}
        with pool.borrow() as request:
            return _checked(
                _infer(request, inputs, [names.CROSS_ATTENTION])[names.CROSS_ATTENTION], "attention weights"
            )

    @cached_property
    def _alignment(self) -> _Pool:
        """Compiled when first wanted; two threads at once may both compile it, and one of the two is kept."""
        assert self._alignment_file is not None
        return _Pool(self._compile(self._core, names.ALIGNMENT, self._alignment_file))

    def encode(
        self, ids: Ids, mask: Mask, logit_index: Ids | None, segments: Ids | None = None
    ) -> tuple[Floats, Floats]:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        assert self._encoder is not None
        inputs: dict[str, NDArray[Any]] = {names.IDS: ids, names.MASK: mask}
        if names.SEGMENTS in self._encoder.inputs:
            inputs[names.SEGMENTS] = np.zeros_like(ids) if segments is None else segments
        if names.LOGIT_INDEX in self._encoder.inputs:
            inputs[names.LOGIT_INDEX] = np.zeros((len(ids), 1), np.int64) if logit_index is None else logit_index
        scores = names.EMBEDDING if names.EMBEDDING in self._encoder.outputs else names.LOGITS
        with self._encoder.borrow() as request:
            outputs = _infer(request, inputs, [n for n in (names.HIDDEN, scores) if n in self._encoder.outputs])
        hidden = outputs.get(names.HIDDEN, no_states(ids))
        return _checked(hidden, "hidden states"), _checked(outputs[scores], scores)

    def describe(self) -> dict[str, Any]:
        """Engine, version, device, threads, and the precision of arithmetic and cache."""
        return {
            "engine": "openvino",
            "version": self._library.get_version(),
            "device": self.device,
            "threads": self.threads,
            "arithmetic": "f32" if self.precision == _FLOAT32 else "f32, int8 products",
            "cache": "f32",
        }


class OpenVinoRun:
    """A :class:`~edgewise.runtime.engine.DecoderRun`: one request of the library, whose states are the caches."""

    def __init__(
        self, pool: _Pool, memory: _Memory | None, batch: int, beams: int, capacity: int, candidates: int
    ) -> None:
        self._request = pool.take()
        finalize(self, pool.give, self._request)
        self._request.reset_state()
        self._beams, self._capacity = beams, capacity
        self._candidates = min(candidates, pool.vocabulary)
        self._length = 0
        self._unfolded = False
        self._cross = dict(_cross(memory))
        self._state_rows = np.arange(batch)
        _set(self._request, self._cross)

    def prefill(self, ids: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`. The prompt is read once a sentence, not once a beam."""
        best = self._advance(ids, np.full((len(ids), 1), ids.shape[1] - 1), np.arange(len(ids)))
        return Candidates(best.log_probs.repeat(self._beams, axis=0), best.ids.repeat(self._beams, axis=0))

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        rows = self._state_rows[parents if self._unfolded else parents // self._beams]
        self._unfolded, self._state_rows = True, np.arange(len(ids))
        return self._advance(ids[:, None], np.zeros((len(ids), 1), np.int64), rows)

    def keep(self, sentences: Ids) -> None:
        """See :class:`~edgewise.runtime.engine.DecoderRun`. The caches follow at the next step, by the beam index."""
        width = self._beams if self._unfolded else 1  # after the prefill a sentence is one row
        self._state_rows = self._state_rows[(sentences[:, None] * width + np.arange(width)).ravel()]
        self._cross = {name: _tensor(tensor.data[sentences]) for name, tensor in self._cross.items()}
        _set(self._request, self._cross)

    def last_logits(self) -> Floats:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        logits: Floats = self._request.get_tensor(names.LOGITS).data[:, 0].copy()  # (R or B, 1, V)
        return logits if self._unfolded else logits.repeat(self._beams, axis=0)

    def _advance(self, ids: Ids, logit_index: Ids, rows: Ids) -> Candidates:
        start, self._length = self._length, self._length + ids.shape[1]
        if self._length > self._capacity:
            raise ContextLengthError(
                f"{self._length} tokens do not fit the {self._capacity} this run was started for: start it with more"
            )
        positions = np.broadcast_to(np.arange(start, self._length), ids.shape)
        key_mask = np.ones((len(ids), self._length), np.bool_)
        inputs = _step_inputs(ids, positions, key_mask, logit_index, rows, self._candidates)
        outputs = _infer(self._request, inputs, [names.TOP_LOG_PROBS, names.TOP_IDS])
        return _candidates(outputs)


def _candidates(outputs: Mapping[str, NDArray[Any]]) -> Candidates:
    log_probs = outputs[names.TOP_LOG_PROBS][:, 0]
    if np.isnan(log_probs).any() or not np.isfinite(log_probs[:, 0]).all():  # the best of a row is always finite
        raise _not_numbers("log-probabilities")
    return Candidates(log_probs, outputs[names.TOP_IDS][:, 0])


class _Pool:
    """Idle requests of one compiled graph. Deques and lists append and pop atomically, so the pool needs no lock."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []
        self.inputs = _input_names(compiled)
        self.outputs = [port.get_any_name() for port in compiled.outputs]

    @property
    def vocabulary(self) -> int:
        """``V`` of a decoder."""
        return int(self._compiled.output(names.LOGITS).get_partial_shape()[2].get_length())

    def take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            with _failures("create an infer request"):
                return self._compiled.create_infer_request()

    def give(self, request: Any) -> None:
        self._idle.append(request)

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        request = self.take()
        try:
            yield request
        finally:
            self.give(request)


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "openvino is not installed, and this target needs it: pip install 'edgewise[openvino]'"
        ) from error
    return openvino


def _check_device(core: Any, device: str) -> None:
    """Refuse a device that is not there, so that no work falls back to another."""
    there = core.available_devices
    if not any(name == device or name.startswith(f"{device}.") for name in there):
        raise TargetError(
            f"openvino finds no {device} on this machine, only {', '.join(there)}: choose one of these, or install "
            f"the driver of the {device}"
        )


def _settings(device: str, precision: str, threads: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if device != "NPU":
        group = "0" if precision == _FLOAT32 else _INT8_GROUP
        settings |= {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": group}
    return settings | ({"INFERENCE_NUM_THREADS": threads} if device == "CPU" else {})


def _input_names(model: Any) -> list[str]:
    return [port.get_any_name() for port in model.inputs]


def _cross(memory: _Memory | None) -> dict[str, Any]:
    return memory.inputs if memory is not None else {}


def _step_inputs(
    ids: Ids, positions: Ids, key_mask: Mask, logit_index: Ids, rows: Ids, count: int
) -> dict[str, NDArray[Any]]:
    return {
        names.IDS: ids,
        names.POSITIONS: positions,
        names.KEY_MASK: key_mask,
        names.LOGIT_INDEX: logit_index,
        names.BEAM_INDEX: rows.astype(np.int32),
        names.TOP_COUNT: np.array([count], np.int64),
    }


def _set(request: Any, tensors: Mapping[str, Any]) -> None:
    for name, tensor in tensors.items():
        request.set_tensor(name, tensor)


def _tensor(value: NDArray[Any]) -> Any:
    """A tensor with a copy of ``value``: a shared one would not keep the array alive."""
    from openvino import Tensor

    return Tensor(np.ascontiguousarray(value))


def _infer(request: Any, inputs: Mapping[str, NDArray[Any]], outputs: list[str]) -> dict[str, NDArray[Any]]:
    """Run ``request`` and copy ``outputs`` out of its buffers, which the next call overwrites."""
    with _failures("run a graph"):
        _set(request, {name: _tensor(value) for name, value in inputs.items()})
        request.infer()
        return {name: request.get_tensor(name).data.copy() for name in outputs}


def _checked(values: Floats, what: str) -> Floats:
    if not np.isfinite(values).all():
        raise _not_numbers(what)
    return values


def _not_numbers(what: str) -> EngineError:
    return EngineError(
        f"openvino gave {what} that are not numbers, expected finite ones: the weights may be damaged, "
        "run 'edgewise verify'"
    )


@contextmanager
def _failures(doing: str) -> Iterator[None]:
    """The library raises RuntimeError for everything, over many lines."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"openvino could not {doing}: {' '.join(str(error).split())[:500]}") from error
