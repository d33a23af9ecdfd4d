"""From logits to the log-probabilities of the tokens that came."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def next_log_probs(logits: NDArray[Any], ids: list[int]) -> list[float]:
    """Of ``ids[1:]``, from ``logits (T, V)`` of which row ``t`` speaks of ``ids[t + 1]``; nats."""
    wide = logits[: len(ids) - 1].astype(np.float64)
    largest = wide.max(-1)
    totals = largest + np.log(np.exp(wide - largest[:, None]).sum(-1))
    found: list[float] = (wide[np.arange(len(wide)), ids[1:]] - totals).tolist()
    return found
