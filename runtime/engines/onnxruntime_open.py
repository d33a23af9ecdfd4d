"""ONNX Runtime on the CPU: a run that sentences join and leave, each row with a length of its own.

Every row has its own buffers from place 0 on, so a row computes what it would alone, to the bit where sources are
padded alike. A join reads the prompts of the new alone, writes their sources behind the others', and binds the step
anew. The kernel knows no beams: a beam goes on in the buffers of its parent, and only where two have the same one the
second gets a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import signature as names
from ..engine import Candidates, Floats, Ids
from .joined import check_room, chosen, joined
from .onnxruntime_cpu import _Call, _finite

if TYPE_CHECKING:
    from .onnxruntime_cpu import OnnxRuntimeEngine, _Memory

_CAPACITY_STEP = 64
"""Capacities of buffers are rounded up to a multiple of this."""


class OnnxRuntimeOpenRun:
    """An :class:`~edgewise.runtime.engine.OpenRun`."""

    def __init__(self, engine: OnnxRuntimeEngine, beams: int, candidates: int) -> None:
        self._engine, self._beams = engine, beams
        self._candidates = min(candidates, engine.vocabulary)
        self._sources: dict[str, NDArray[Any]] = {}
        self._lengths = np.zeros(0, np.int32)  # of every sentence: tokens in its rows' buffers
        self._capacities = np.zeros(0, np.int64)
        self._places = np.zeros(0, np.int64)  # of every row: the row of the buffers that is its own
        self._buffers = _Buffers(engine)
        self._bound: _Bound | None = None

    def join(self, memory: _Memory | None, prompts: Ids, capacity: int) -> None:
        """See :class:`~edgewise.runtime.engine.OpenRun`."""
        batch, tokens = prompts.shape
        first = len(self._lengths)
        check_room(tokens, capacity)
        longest = max(capacity, int(self._capacities.max(initial=0)))
        self._buffers.grow((first + batch) * self._beams, longest, first * self._beams)
        self._bound = None
        if tokens > 1:
            self._read(memory, prompts[:, :-1], slice(first * self._beams, (first + batch) * self._beams))
        if memory is not None:
            self._sources = joined(self._sources, memory.inputs)
        self._lengths = np.concatenate([self._lengths, np.full(batch, tokens - 1, np.int32)])
        self._capacities = np.concatenate([self._capacities, np.full(batch, capacity)])
        new_places = np.arange(first * self._beams, (first + batch) * self._beams)
        self._places = np.concatenate([self._places, new_places])

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.OpenRun`."""
        full = np.flatnonzero(self._lengths >= self._capacities)
        if len(full):
            check_room(int(self._lengths[full[0]]) + 1, int(self._capacities[full[0]]))
        self._reorder(parents)
        if self._bound is None:
            self._bound = _Bound(self._engine, self._buffers, self._sources, len(ids), self._candidates)
        bound = self._bound
        bound.ids[self._places, 0] = ids
        bound.lengths[:] = self._lengths.repeat(self._beams)
        bound.longest[0] = self._lengths.max() + 1
        bound.call.run()
        self._lengths += 1
        _finite(bound.best.log_probs, "log-probabilities")
        if self._beams == 1:
            return bound.best
        return Candidates(bound.best.log_probs[self._places], bound.best.ids[self._places])

    def keep(self, sentences: Ids) -> None:
        """See :class:`~edgewise.runtime.engine.OpenRun`. Rows move into free places."""
        self._bound = None
        moved = np.flatnonzero(sentences != np.arange(len(sentences)))
        if len(moved):
            rows, parents = (_rows(places, self._beams) for places in (moved, sentences[moved]))
            self._buffers.copy(parents, rows, int(self._lengths[sentences[moved]].max()))
        within = self._places.reshape(-1, self._beams)[sentences] - sentences[:, None] * self._beams
        self._places = (within + np.arange(len(sentences))[:, None] * self._beams).ravel()
        self._sources = chosen(self._sources, sentences)
        self._lengths, self._capacities = self._lengths[sentences], self._capacities[sentences]

    def last_logits(self) -> Floats:
        """See :class:`~edgewise.runtime.engine.OpenRun`."""
        assert self._bound is not None
        return self._bound.logits if self._beams == 1 else self._bound.logits[self._places]

    def _reorder(self, parents: Ids) -> None:
        """The first row that continues a parent takes over its place; the others get copies in places that are free."""
        if self._beams == 1:
            return
        sources = self._places[parents]
        others = np.ones(len(parents), np.bool_)
        others[np.unique(sources, return_index=True)[1]] = False
        self._places = sources.copy()
        if others.any():
            # A sentence has as many free places as rows that want one, and both come sentence by sentence.
            free = np.setdiff1d(np.arange(len(parents)), sources)
            length = int(self._lengths[np.flatnonzero(others) // self._beams].max())
            self._buffers.copy(sources[others], free, length)
            self._places[others] = free

    def _read(self, memory: _Memory | None, ids: Ids, rows: slice) -> None:
        """Read the beginnings of new sentences, into the buffers of all their beams."""
        call, batch = _Call(self._engine.session(names.PREFILL)), len(ids)
        call.read(names.IDS, np.ascontiguousarray(ids))
        call.read(names.LOGIT_INDEX, np.zeros((batch, 1), np.int64))
        call.read(names.BEAM_WIDTH, np.full(1, self._beams, np.int32))
        call.read(names.TOP_COUNT, np.ones(1, np.int64))
        for name, array in (memory.inputs if memory is not None else {}).items():
            call.read(name, array)
        for name, buffer in self._buffers.views(rows).items():
            call.share(name, buffer)
        call.write(names.LOGITS, (batch, 1, self._engine.vocabulary), np.float32)
        call.write(names.TOP_LOG_PROBS, (batch, 1, 1), np.float32)
        call.write(names.TOP_IDS, (batch, 1, 1), np.int64)
        call.run()


class _Buffers:
    """Caches of all layers in one array, and logits; both for more rows than are in use."""

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        cache = engine.cache
        kinds = (names.key_cache, names.value_cache)
        self._names = [name(layer) for layer in range(cache.layers) for name in kinds]
        self._caches = np.zeros((len(self._names), 0, cache.heads, 0, cache.head_dim), np.float32)
        self.logits: Floats = np.zeros((0, engine.vocabulary), np.float32)

    def grow(self, rows: int, capacity: int, used: int) -> None:
        """Make room for so many rows and tokens, of which the first ``used`` rows stay.

        Too few rows are replaced by half as many more than are needed, with no more tokens than are.
        """
        kinds, had, heads, places, width = self._caches.shape
        if rows <= had and capacity <= places:
            return
        more = rows + rows // 2 if rows > had > 0 else max(rows, had)
        rounded = -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP
        caches, kept = np.zeros((kinds, more, heads, rounded, width), np.float32), min(places, rounded)
        caches[:, :used, :, :kept] = self._caches[:, :used, :, :kept]
        self._caches, self.logits = caches, np.zeros((more, self.logits.shape[1]), np.float32)

    def views(self, rows: slice) -> dict[str, NDArray[np.float32]]:
        """The buffers ``(R, H, capacity, Dh)`` of some rows, by input name."""
        return {name: buffer[rows] for name, buffer in zip(self._names, self._caches, strict=True)}

    def copy(self, sources: Ids, rows: Ids, length: int) -> None:
        """``rows`` get the first ``length`` tokens of ``sources``, as these were before."""
        self._caches[:, rows, :, :length] = self._caches[:, sources, :, :length]


class _Bound:
    """The graph bound to the rows that are in the run now."""

    def __init__(
        self,
        engine: OnnxRuntimeEngine,
        buffers: _Buffers,
        sources: dict[str, NDArray[Any]],
        rows: int,
        candidates: int,
    ) -> None:
        call = self.call = _Call(engine.session(names.RAGGED))
        self.ids = call.read(names.IDS, np.zeros((rows, 1), np.int64))
        self.lengths = call.read(names.ROW_LENGTHS, np.zeros(rows, np.int32))
        self.longest = call.read(names.LONGEST, np.zeros(1, np.int32))
        call.read(names.TOP_COUNT, np.full(1, candidates, np.int64))
        for name, array in sources.items():
            call.read(name, array)
        for name, buffer in buffers.views(slice(0, rows)).items():
            call.share(name, buffer)
        self.logits: Floats = call.write_to(names.LOGITS, buffers.logits[:rows])
        log_probs = call.write(names.TOP_LOG_PROBS, (rows, candidates), np.float32)
        self.best = Candidates(log_probs, call.write(names.TOP_IDS, (rows, candidates), np.int64))


def _rows(sentences: Ids, beams: int) -> Ids:
    rows: Ids = (sentences[:, None] * beams + np.arange(beams)).ravel()
    return rows
