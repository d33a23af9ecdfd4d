"""OpenVINO: a run that sentences join and leave, by the mask of the stateful graph.

The states of all rows have the same number of places, and the last of them are a row's own: what stands before is
masked, and positions count a row's own tokens. A new row that has read nothing has any other's state, all masked. What
moves states through Python is a prompt of several tokens that joins, and the removal of places that every row masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ..bundle import signature as names
from ..engine import Candidates, Floats, Ids
from .joined import check_room, chosen, joined
from .openvino import _candidates, _cross, _failures, _infer, _set, _step_inputs, _tensor

if TYPE_CHECKING:
    from .openvino import _Memory, _Pool

_MOST_MASKED = 64
"""Places that all rows mask before they are cut off."""


class OpenVinoOpenRun:
    """An :class:`~edgewise.runtime.engine.OpenRun` in one request of the library."""

    def __init__(self, pool: _Pool, beams: int, candidates: int) -> None:
        self._pool, self._beams = pool, beams
        self._request = pool.take()
        finalize(self, pool.give, self._request)
        self._request.reset_state()
        self._candidates = min(candidates, pool.vocabulary)
        self._sources: dict[str, NDArray[Any]] = {}
        self._lengths = np.zeros(0, np.int64)  # of every sentence: tokens at the end of its rows' states
        self._capacities = np.zeros(0, np.int64)
        self._places = 0
        self._state_rows = np.zeros(0, np.int64)  # of every row: the row of the states that it continues

    def join(self, memory: _Memory | None, prompts: Ids, capacity: int) -> None:
        """See :class:`~edgewise.runtime.engine.OpenRun`."""
        batch, tokens = prompts.shape
        check_room(tokens, capacity)
        new_rows = np.zeros(batch * self._beams, np.int64)
        if tokens > 1:
            new_rows = self._read(memory, prompts[:, :-1]).repeat(self._beams)
        if memory is not None:
            self._sources = joined(self._sources, {name: tensor.data for name, tensor in memory.inputs.items()})
            self._set_sources()
        self._state_rows = np.concatenate([self._state_rows, new_rows])
        self._lengths = np.concatenate([self._lengths, np.full(batch, tokens - 1)])
        self._capacities = np.concatenate([self._capacities, np.full(batch, capacity)])

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        """See :class:`~edgewise.runtime.engine.OpenRun`."""
        full = np.flatnonzero(self._lengths >= self._capacities)
        if len(full):
            check_room(int(self._lengths[full[0]]) + 1, int(self._capacities[full[0]]))
        self._cut()
        rows, lengths = len(ids), self._lengths.repeat(self._beams)[:, None]
        own = np.arange(self._places + 1) >= self._places - lengths  # (R, P + 1)
        # States that hold nothing yet have as many rows as the call.
        states = self._state_rows[parents] if self._places else np.arange(rows)
        inputs = _step_inputs(ids[:, None], lengths, own, np.zeros((rows, 1), np.int64), states, self._candidates)
        outputs = _infer(self._request, inputs, [names.TOP_LOG_PROBS, names.TOP_IDS])
        self._state_rows = np.arange(rows)
        self._lengths += 1
        self._places += 1
        return _candidates(outputs)

    def keep(self, sentences: Ids) -> None:
        """See :class:`~edgewise.runtime.engine.OpenRun`. The states follow at the next step, by the beam index."""
        self._state_rows = self._state_rows[(sentences[:, None] * self._beams + np.arange(self._beams)).ravel()]
        self._sources = chosen(self._sources, sentences)
        self._lengths, self._capacities = self._lengths[sentences], self._capacities[sentences]
        self._set_sources()

    def last_logits(self) -> Floats:
        """See :class:`~edgewise.runtime.engine.OpenRun`."""
        logits: Floats = self._request.get_tensor(names.LOGITS).data[:, 0].copy()
        return logits

    def _set_sources(self) -> None:
        _set(self._request, {name: _tensor(array) for name, array in self._sources.items()})

    def _read(self, memory: _Memory | None, ids: Ids) -> Ids:
        """Read the beginnings of new sentences apart, and put them behind the states. Returns their rows there."""
        batch, tokens = ids.shape
        everywhere = np.broadcast_to(np.arange(tokens), ids.shape)
        inputs = _step_inputs(ids, everywhere, np.ones_like(ids, np.bool_), everywhere[:, :1], np.arange(batch), 1)
        with self._pool.borrow() as other:
            other.reset_state()
            _set(other, _cross(memory))
            _infer(other, inputs, [])
            new = _states(other)
        places, rows = max(self._places, tokens), len(self._state_rows)
        old = _states(self._request) if self._places else {}
        merged = {}
        for name, state in new.items():
            merged[name] = np.zeros((rows + batch, state.shape[1], places, state.shape[3]), np.float32)
            merged[name][rows:, :, places - tokens :] = state
            if old:
                merged[name][:rows, :, places - self._places :] = old[name][self._state_rows]
        self._put(merged, places)
        self._state_rows = np.arange(rows)
        return np.arange(rows, rows + batch)

    def _cut(self) -> None:
        """Forget places that every row masks, once they are many."""
        longest = int(self._lengths.max())
        if longest == 0:
            self._request.reset_state()
            self._places = 0
        elif self._places - longest >= _MOST_MASKED:
            self._put(
                {name: state[:, :, self._places - longest :] for name, state in _states(self._request).items()}, longest
            )

    def _put(self, states: dict[str, NDArray[np.float32]], places: int) -> None:
        with _failures("set the states of a request"):
            for state in self._request.query_state():
                state.state = _tensor(states[state.name])
        self._places = places


def _states(request: Any) -> dict[str, NDArray[np.float32]]:
    with _failures("read the states of a request"):
        return {state.name: state.state.data.copy() for state in request.query_state()}
