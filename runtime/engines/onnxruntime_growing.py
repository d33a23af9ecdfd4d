"""ONNX Runtime on the CPU over decoders whose past goes in and out as plain tensors, one longer than the other.

So other exporters write them (``export/onnx_folder``). A call gives new tensors, which the next one reads: caches are
copied as they grow, and beams are reordered by gathering them. Of a decoder alone the graph ``decoder`` reads any
number of tokens after any past. Beside an encoder ``prefill`` reads what comes first, and makes keys and values of the
encoder's states; ``decoder`` then reads one token a call, and every row has cross-attention inputs of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ...errors import ContextLengthError, EngineError
from ..bundle import Bundle
from ..bundle import signature as names
from ..bundle.manifest import CacheSpec, Variant
from ..engine import Candidates, DecoderRun, Floats, Ids, Mask, OpenRun, VerifyingRun
from .onnxruntime_cpu import OnnxRuntimeEngine, _failures, _finite, _Memory
from .saturation import refuse_saturating_products

Caches = dict[str, ort.OrtValue]
"""By input name: keys and values ``(R, H, P, Dh)`` of every layer."""


def open_variant(bundle: Bundle, variant: Variant, threads: int) -> GrowingEngine:
    """Open the graphs of ``variant``.

    Raises:
        EngineError: ONNX Runtime refuses a graph, or this processor's int8 products saturate.
    """
    if any(choice.kernel in ("int8-rows", "int8-tensor") for choice in variant.kernels):
        refuse_saturating_products()
    files = {name: bundle.graph_path(variant, name) for name in variant.graphs}
    return GrowingEngine(files, variant.cache, bundle.manifest.model.vocab_size, threads)


class _Outputs(NamedTuple):
    """What a call gives: candidates ``(R, N, k)``, logits ``(R, N, V)``, the caches, longer by its tokens, and, where
    it made them, cross-attention keys and values ``(R, H, S, Dh)`` of every layer.
    """

    log_probs: ort.OrtValue
    ids: ort.OrtValue
    logits: ort.OrtValue
    caches: Caches
    cross: dict[str, NDArray[Any]]


class GrowingEngine(OnnxRuntimeEngine):
    """An :class:`~edgewise.runtime.engine.Engine` over the graph ``files`` of one variant."""

    def __init__(self, files: Mapping[str, Path], cache: CacheSpec, vocabulary: int, threads: int) -> None:
        super().__init__(files, cache, vocabulary, threads)
        self._first = names.PREFILL if names.PREFILL in files else names.DECODER
        self._pasts = [name(layer) for layer in range(cache.layers) for name in (names.past_key, names.past_value)]
        self._presents = [p(layer) for layer in range(cache.layers) for p in (names.present_key, names.present_value)]
        self._cross = [name(layer) for layer in range(cache.layers) for name in (names.cross_key, names.cross_value)]
        self.session(names.DECODER)

    def start(  # type: ignore[override]
        self, memory: _Memory | None, batch: int, beams: int, capacity: int, candidates: int
    ) -> DecoderRun:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        return GrowingRun(self, memory, batch, beams, capacity, min(candidates, self.vocabulary))

    def open_run(self, beams: int, candidates: int) -> OpenRun | None:
        """None: rows of one call have pasts of one length."""
        return None

    @property
    def verify_tokens(self) -> int:
        """None: these graphs do not promise the bits of single steps."""
        return 0

    def start_verifying(  # type: ignore[override]
        self, memory: _Memory | None, capacity: int, candidates: int
    ) -> VerifyingRun:
        """See :class:`~edgewise.runtime.engine.Engine`."""
        raise EngineError("graphs with a growing cache cannot be speculated with: export the checkpoint itself")

    def decoder_logits(self, memory: _Memory | None, ids: Ids, mask: Mask) -> Floats:
        """See :class:`~edgewise.runtime.engine.Engine`. Padding stands on the right, where no real token looks."""
        everywhere = np.ascontiguousarray(np.broadcast_to(np.arange(ids.shape[1]), ids.shape))
        cross = memory.inputs if memory is not None else {}
        found = self.call(ids, 0, mask, everywhere, 1, cross, self.empty(len(ids)))
        return _finite(found.logits.numpy())

    def empty(self, rows: int) -> Caches:
        """Caches that hold nothing yet."""
        shape = (rows, self.cache.heads, 0, self.cache.head_dim)
        return {name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for name in self._pasts}

    def call(
        self,
        ids: Ids,
        past: int,
        key_mask: Mask,
        logit_index: Ids,
        candidates: int,
        cross: Mapping[str, NDArray[Any]],
        caches: Caches,
    ) -> _Outputs:
        """Read ``ids (R, T)`` behind ``past`` tokens; logits are wanted at ``logit_index (R, N)``."""
        session = self.session(names.DECODER if past else self._first)
        positions = np.broadcast_to(np.arange(past, past + ids.shape[1]), ids.shape)
        feeds: dict[str, NDArray[Any]] = {
            names.IDS: ids,
            names.POSITIONS: positions,
            names.KEY_MASK: key_mask,
            names.LOGIT_INDEX: logit_index,
            names.TOP_COUNT: np.full(1, candidates, np.int64),
            **cross,
        }
        inputs = {value.name for value in session.get_inputs()}
        values = {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            for name, array in feeds.items()
            if name in inputs
        }
        values |= {name: cache for name, cache in caches.items() if name in inputs}
        made = self._cross if names.HIDDEN in inputs else []
        wanted = [names.TOP_LOG_PROBS, names.TOP_IDS, names.LOGITS, *self._presents, *made]
        with _failures("run the decoder"):
            log_probs, best, logits, *rest = session.run_with_ort_values(wanted, values)
        caches, states = rest[: len(self._pasts)], [value.numpy() for value in rest[len(self._pasts) :]]
        return _Outputs(
            log_probs,
            best,
            logits,
            dict(zip(self._pasts, caches, strict=True)),
            dict(zip(made, states, strict=True)),
        )

    def describe(self) -> dict[str, Any]:
        """Engine, version, device and threads."""
        return {**super().describe(), "cache": "growing"}


class GrowingRun:
    """A :class:`~edgewise.runtime.engine.DecoderRun`: the caches of the latest call, and which rows go on from them."""

    def __init__(
        self, engine: GrowingEngine, memory: _Memory | None, batch: int, beams: int, capacity: int, candidates: int
    ) -> None:
        self._engine, self._beams, self._capacity, self._candidates = engine, beams, capacity, candidates
        self._cross: dict[str, NDArray[Any]] = dict(memory.inputs) if memory is not None else {}
        self._caches = engine.empty(batch)
        self._cache_rows = np.arange(batch)  # of every row: the row of the caches that it continues
        self._length = 0
        self._unfolded = False  # whether every beam has a row of its own
        self._logits: Floats = np.zeros((0, engine.vocabulary), np.float32)

    def prefill(self, ids: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`. The prompt is read once a sentence, not once a beam."""
        best = self._advance(ids)
        return Candidates(best.log_probs.repeat(self._beams, axis=0), best.ids.repeat(self._beams, axis=0))

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        if not self._unfolded:
            self._cross = {name: array.repeat(self._beams, axis=0) for name, array in self._cross.items()}
        self._gather(self._cache_rows[parents if self._unfolded else parents // self._beams])
        self._unfolded = True
        return self._advance(ids[:, None])

    def keep(self, sentences: Ids) -> None:
        """See :class:`~edgewise.runtime.engine.DecoderRun`. The caches follow at the next step."""
        width = self._beams if self._unfolded else 1  # after the prefill a sentence is one row
        rows = (sentences[:, None] * width + np.arange(width)).ravel()
        self._cache_rows = self._cache_rows[rows]
        self._cross = {name: array[rows] for name, array in self._cross.items()}

    def last_logits(self) -> Floats:
        """See :class:`~edgewise.runtime.engine.DecoderRun`."""
        return self._logits if self._unfolded else self._logits.repeat(self._beams, axis=0)

    def _gather(self, rows: Ids) -> None:
        held = next(iter(self._caches.values())).shape()[0]
        if not np.array_equal(rows, np.arange(held)):
            self._caches = {
                name: ort.OrtValue.ortvalue_from_numpy(cache.numpy()[rows]) for name, cache in self._caches.items()
            }
        self._cache_rows = np.arange(len(rows))

    def _advance(self, ids: Ids) -> Candidates:
        rows, tokens = ids.shape
        if self._length + tokens > self._capacity:
            raise ContextLengthError(
                f"{self._length + tokens} tokens do not fit the {self._capacity} this run was started for: "
                "start it with more"
            )
        key_mask = np.ones((rows, self._length + tokens), np.bool_)
        last = np.full((rows, 1), tokens - 1, np.int64)
        found = self._engine.call(ids, self._length, key_mask, last, self._candidates, self._cross, self._caches)
        self._length += tokens
        self._caches = found.caches
        self._cross |= found.cross
        self._cross.pop(names.HIDDEN, None)  # read once
        self._logits = found.logits.numpy()[:, 0]
        log_probs = _finite(found.log_probs.numpy()[:, 0], "log-probabilities")
        return Candidates(log_probs, found.ids.numpy()[:, 0])
