"""Comparing a quantized variant with what its own integers give, where that is recorded.

An engine quantizes the activations before some products or leaves them as they are, as its processor allows; a healthy
one agrees with one of the two recorded answers at nearly every steady step, and a changed weight moves nearly all of
them. On a processor whose products are known to be exact it has to agree; elsewhere a third arithmetic may be right,
and the report says that it was met.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence

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
        self._off: dict[str, dict[Arithmetic, list[float]]] = {}

    def scores(self, way: str, case: str, index: int, logits: Floats, token: int) -> None:
        """Compare ``logits (V,)`` of a step, after which ``token`` was chosen, where it is steady.

        ``way``: how the engine was asked, such as in one pass or through the cache. Each is judged by itself.
        """
        if (case, index) in self._steps:
            self._compare(way, self._steps[case, index], digest(logits, token))

    def classes(self, way: str, case: str, index: int, logits: Floats) -> None:
        """Compare class scores of a text, or of its recorded token ``index``, where they are steady."""
        if (case, index) in self._steps:
            self._compare(way, self._steps[case, index], logits.astype(np.float64))

    def vector(self, way: str, case: str, vector: Floats) -> None:
        """Compare the vector ``(D,)`` of a text, where it is steady."""
        if (case, 0) in self._steps:
            self._compare(way, self._steps[case, 0], direction(vector))

    def _compare(self, way: str, step: SteadyStep, found: NDArray[np.float64]) -> None:
        off = self._off.setdefault(way, {a: [] for a in ARITHMETICS})
        for arithmetic in ARITHMETICS:
            off[arithmetic].append(float(np.abs(found - getattr(step, arithmetic)).max()))

    def found(self, engine: Engine, papers_own: bool = True) -> OwnIntegers:
        """The nearer of the two answers, and whether that is near enough, of the way in which it is the least near."""
        order = ARITHMETICS if self._rounds else ARITHMETICS[::-1]
        worst = {a: min(self._off.values(), key=lambda off: _share(off[a]), default={a: []})[a] for a in order}
        best = max(order, key=lambda a: _share(worst[a]))  # of equals the first
        off = worst[best]
        near = sum(value <= STEADY_STEP for value in off)
        expected = STEADY_SHARE if self._rounds or best == "int8" else 1.0  # without rounding it is as fp32: every step
        enough = len(off) >= STEADY_FEWEST
        return OwnIntegers(
            arithmetic=best if enough and near >= expected * len(off) else "other" if enough else "undecided",
            required=must_agree(engine, papers_own),
            expected=expected,
            steps=len(off),
            near=near,
            median=float(np.median(off)) if off else 0.0,
            largest=max(off, default=0.0),
        )


def _share(off: Sequence[float]) -> float:
    return sum(value <= STEADY_STEP for value in off) / max(1, len(off))


def must_agree(engine: Engine, papers_own: bool) -> bool:
    """Where a third arithmetic is no excuse: on x86-64 with exact int8 products, which is where this was measured.

    Other devices and processors have not been measured. x86 without VNNI may round or clip products in ways of its own.
    OpenVINO rounds activations by rules of its own, which the recorded network has right for the paper's networks
    (``papers_own``) and not for all others.
    """
    if engine.describe().get("engine") == "openvino" and not papers_own:
        return False
    if engine.describe().get("device") != "CPU" or platform.machine().lower() not in _X86_64:
        return False
    from .engines.saturation import products_are_exact

    return products_are_exact()
