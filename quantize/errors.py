"""How far off a kernel is on what a matrix really reads.

A scale for a whole row follows its largest number. In most language models a few features are a hundred times as large
as the others, of which such a scale leaves little (Dettmers et al. 2022, section 3); a scale for every 32 neighbours
confines the damage. So whether a kernel may carry a matrix is measured, on rows recorded from the reference.

Measured on 256 rows, ``int8-rows`` relative to ``int8-blocks``, these by the scale of their largest weight: the
matrices of the four shipped networks 1.0 to 1.8; those of SmolLM2-135M 2.1 (attention outputs) to 3.4 (values).
With ``int8-rows`` everywhere its perplexity rises by 3 to 7 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .kernels import Scaling
from .products import open_products
from .schemes import Kernel
from .tensors import BLOCK

MOST = 2.0
"""Errors of a kernel, in those of ``int8-blocks``, up to which it may carry a matrix."""


def relative_error(
    kernel: Kernel, weight: NDArray[np.float32], x: NDArray[np.float32], scaling: Scaling | None = None
) -> float:
    """Root mean square over the rows ``x (rows, K)`` of how far ``kernel`` is from ``x @ weight.T``, by its length.

    Every row counts the same, the small ones too: what the first token gives is small, and all others attend to it.
    """
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    (found,) = open_products(kernel, [weight], scaling).run(None, {"x": x})
    length = np.linalg.norm(exact, axis=1)
    some = length > 0
    off = np.linalg.norm(found - exact, axis=1)[some] / length[some]
    return float(np.sqrt(np.mean(off**2))) if len(off) else 0.0


def exact_enough(
    kernels: Sequence[Kernel], weight: NDArray[np.float32], x: NDArray[np.float32], scaling: Scaling | None = None
) -> tuple[Kernel, ...]:
    """Those of the ``kernels`` that are not much farther from the product than ``int8-blocks``, in their order.

    All of them where ``int8-blocks`` cannot carry ``weight (N, K)``, or is not among them.
    """
    if "int8-blocks" not in kernels or weight.shape[1] % BLOCK:
        return tuple(kernels)
    bound = MOST * relative_error("int8-blocks", weight, x)
    return tuple(k for k in kernels if k == "int8-blocks" or relative_error(k, weight, x, scaling) <= bound)
