"""Comparing a quantized variant with what its own integers give, where that is recorded.

An engine quantizes the activations before some products or leaves them as they are, as its processor allows; a healthy
one agrees with one of the two recorded answers at nearly every steady step, and a changed weight moves nearly all of
them. On a processor whose products are known to be exact it has to agree; elsewhere a third arithmetic may be right,
and the report says that it was met.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .bundle.quantized import ARITHMETICS, Arithmetic, QuantizedReference, SteadyStep, digest, direction
from .engine import Engine, Floats
from .tolerances import STEADY_FEWEST, STEADY_SHARE, STEADY_STEP
from .verification import OwnIntegers

_X86_64 = ("x86_64", "amd64")


class OwnIntegersReplay:
    """The steady steps of one variant, and how far an engine was from each recorded answer.

    ``rounds``: the variant's graphs quantize activations themselves, whatever the engine does.
    """

    def __init__(self, reference: QuantizedReference, rounds: bool) -> None:
        self._rounds = rounds
        self._steps: Mapping[tuple[str, int], SteadyStep] = {
            (case.name, step.index): step for case in reference.cases for step in case.steps
        }
        self._off: dict[Arithmetic, list[float]] = defaultdict(list)

    def scores(self, case: str, index: int, logits: Floats, token: int) -> None:
        """Compare ``logits (V,)`` of a step, after which ``token`` was chosen, where it is steady."""
        if (case, index) in self._steps:
            self._compare(self._steps[case, index], digest(logits, token))

    def classes(self, case: str, logits: Floats) -> None:
        """Compare class scores, where they are steady."""
        if (case, 0) in self._steps:
            self._compare(self._steps[case, 0], logits.astype(np.float64))

    def vector(self, case: str, vector: Floats) -> None:
        """Compare the vector ``(D,)`` of a text, where it is steady."""
        if (case, 0) in self._steps:
            self._compare(self._steps[case, 0], direction(vector))

    def _compare(self, step: SteadyStep, found: NDArray[np.float64]) -> None:
        for arithmetic in ARITHMETICS:
            self._off[arithmetic].append(float(np.abs(found - getattr(step, arithmetic)).max()))

    def found(self, engine: Engine) -> OwnIntegers:
        """The nearer of the two answers, and whether that is near enough."""
        near = {a: sum(off <= STEADY_STEP for off in self._off[a]) for a in ARITHMETICS}
        best = max(ARITHMETICS if self._rounds else ARITHMETICS[::-1], key=lambda a: near[a])  # of equals the first
        compared = len(self._off[best])
        expected = STEADY_SHARE if self._rounds or best == "int8" else 1.0  # without rounding it is as fp32: every step
        recognised = compared >= STEADY_FEWEST and near[best] >= expected * compared
        return OwnIntegers(
            arithmetic=best if recognised else "undecided" if compared < STEADY_FEWEST else "other",
            required=must_agree(engine),
            expected=expected,
            steps=compared,
            near=near[best],
            median=float(np.median(self._off[best])) if compared else 0.0,
            largest=max(self._off[best], default=0.0),
        )


def must_agree(engine: Engine) -> bool:
    """Where a third arithmetic is no excuse: on x86-64 with exact int8 products, which is where this was measured.

    Other devices and processors have not been measured. x86 without VNNI may round or clip products in ways of its own.
    """
    if engine.describe().get("device") != "CPU" or platform.machine().lower() not in _X86_64:
        return False
    from .engines.saturation import products_are_exact

    return products_are_exact()
