"""Inputs whose large features are made small, and their weights large, before a row of them gets one scale.

``x @ weight.T = (x * factor) @ (weight / factor).T`` for any positive ``factor`` a feature. Rounding a row to levels
that follow its largest number leaves little of the others where a few features are a hundred times as large (Dettmers
et al. 2022, section 3). A factor that takes half of that difference from them gives it to the weights, which can bear
it (Xiao et al. 2023, equation 4 with a migration strength of 0.5).

What an activation function made is never far below zero: counted from its least value, all levels are for what is
above.

Measured on the 36 matrices of all-MiniLM-L6-v2, errors in those of ``int8-blocks``: ``int8-rows`` 1.7 to 3.4, with
factors 0.98 to 1.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .graph import readers
from .kernels import Scaling

Floats = NDArray[np.float32]
LEAST = {"Relu": 0.0, "Gelu": -0.17}
"""A number below all that an operator gives: of Hendrycks and Gimpel 2016, equation 2, the minimum is -0.16997."""
_TINY = 1e-5  # of a feature that was zero in all rows, or of weights that are


def scalings(graphs: Mapping[str, ir.Model], inputs: Mapping[str, Floats]) -> dict[str, Scaling]:
    """By matrix name, one for all that read the same value, from rows ``inputs (rows, K)`` that it was seen to have."""
    found: dict[str, Scaling] = {}
    for group in (group for model in graphs.values() for group in readers(model)):
        first = group[0][1]
        if first in inputs:
            weights = [weight for _, _, weight in group]
            source = group[0][0].inputs[0].producer()  # type: ignore[union-attr]
            least = LEAST.get(source.op_type) if source is not None else None
            scaling = Scaling(first, factor_of(inputs[first], weights, least), least)
            found |= {name: scaling for _, name, _ in group}
    return found


def factor_of(x: Floats, weights: Sequence[Floats], least: float | None = None) -> Floats:
    """``sqrt(largest weight / largest input)`` of every feature, relative to their geometric mean: ``(K,)``."""
    reach = np.abs(x).max(axis=0) if least is None else (x - least).max(axis=0)
    carried = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0)
    half = np.sqrt(np.maximum(carried, _TINY) / np.maximum(reach, _TINY))
    factor: Floats = (half / np.exp(np.log(half).mean())).astype(np.float32)
    return factor
