"""Which tokens may be drawn, and the draw: one row of the vocabulary at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .options import Sampling

Doubles = NDArray[np.float64]
Keep = NDArray[np.bool_]


def draw(log_probs: Doubles, sampling: Sampling, uniform: float) -> int:
    """The token that ``uniform``, in [0, 1), falls on, the tokens that may be drawn laid side by side by their ids.

    ``log_probs (V,)`` are after the rules and before the temperature (nats); at least one is finite.
    """
    probabilities = filtered(log_probs, sampling)
    edges = probabilities.cumsum()
    # A uniform number next to 1 may round up to the last edge, behind which no token has a share.
    return int(min(np.searchsorted(edges, uniform * edges[-1], side="right"), np.flatnonzero(probabilities)[-1]))


def filtered(log_probs: Doubles, sampling: Sampling) -> Doubles:
    """Probabilities ``(V,)`` of the draw: zero for what the filters of ``sampling`` drop, summing to one."""
    with np.errstate(over="ignore"):  # next to the temperature 0, all but the most probable are impossible
        found = _softmax((log_probs - log_probs.max()) / sampling.temperature)
    for value, keep in (
        (sampling.top_k, _most_probable),
        (sampling.top_p, _nucleus),
        (sampling.min_p, _near_the_best),
        (sampling.typical_p, _typical),
    ):
        if value is not None:
            found = np.where(keep(found, value), found, 0.0)
            found /= found.sum()
    return found


def _softmax(scores: Doubles) -> Doubles:
    found: Doubles = np.exp(scores - scores.max())
    found /= found.sum()
    return found


def _most_probable(probabilities: Doubles, count: float) -> Keep:
    if count >= len(probabilities):
        return np.ones(len(probabilities), np.bool_)
    least = np.partition(probabilities, -int(count))[-int(count)]
    return np.asarray(probabilities >= least)


def _nucleus(probabilities: Doubles, mass: float) -> Keep:
    """The fewest of the most probable that reach ``mass``; of equals the lower id first."""
    return _fewest(probabilities, np.argsort(-probabilities, kind="stable"), mass)


def _near_the_best(probabilities: Doubles, share: float) -> Keep:
    return np.asarray(probabilities >= share * probabilities.max())


def _typical(probabilities: Doubles, mass: float) -> Keep:
    """The fewest that reach ``mass``, those first whose surprise is nearest to the entropy."""
    there = probabilities > 0
    surprise = np.full_like(probabilities, np.inf)
    surprise[there] = -np.log(probabilities[there])
    entropy = (probabilities[there] * surprise[there]).sum()
    return _fewest(probabilities, np.argsort(np.abs(surprise - entropy), kind="stable"), mass)


def _fewest(probabilities: Doubles, order: NDArray[np.intp], mass: float) -> Keep:
    kept = int((probabilities[order].cumsum() < mass).sum()) + 1  # what stands before the mass is reached, and one more
    keep = np.zeros(len(probabilities), np.bool_)
    keep[order[:kept]] = True
    return keep


def uniforms(sampling: Sampling) -> list[Callable[[], float]]:
    """A source of uniform numbers in [0, 1) for every sample of one text."""
    if sampling.seed is None:
        return [generator.random for generator in np.random.default_rng().spawn(sampling.samples)]
    return [np.random.default_rng([sampling.seed, sample]).random for sample in range(sampling.samples)]
