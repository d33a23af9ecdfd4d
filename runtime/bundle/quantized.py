"""The second reference of a quantized variant: what its own integers give, recorded at export.

Against PyTorch in float32 an int8 variant differs by its rounding, and a few damaged weights can hide in that. Against
the same integers multiplied exactly it does not: an engine agrees to the fifth decimal at most steps. It leaves them
only where a sum in another order sends the rounding of an activation the other way, which every later step of the case
then sees. So only *steady* steps are kept: those that stayed the same when every activation was disturbed by about the
rounding of float32 before it was quantized.

``reference/{variant}.json`` holds one :class:`QuantizedReference`. It keeps two answers, for an engine may leave
quantizing activations to its processor: see :data:`Arithmetic`. A replay has to find one of them. Numbers are
rounded to ``DECIMALS``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleFormatError
from .cases import FOLDS, Case, ReferenceCases, fold, log_sum_exp
from .manifest import CASES_FILE, quantized_file, write_atomic
from .schema import Between, Length, Text, dump_json, from_json, load_json, parse_json, raise_faults, to_json

QUANTIZED_FORMAT = 1
MAX_QUANTIZED_BYTES = 16 << 20
DECIMALS = 5

Arithmetic = Literal["int8", "float32"]
"""How an engine multiplies where the graph leaves it the choice: activations as int8 in groups, or as they are."""
ARITHMETICS: tuple[Arithmetic, ...] = ("int8", "float32")

_Values = Annotated[tuple[Annotated[float, Between(-1e9, 1e9)], ...], Length(1, 10_000)]


@dataclass(frozen=True, kw_only=True)
class SteadyStep:
    """What :func:`digest` makes of the scores of step ``index`` of a case, by arithmetic.

    ``index`` counts the steps of greedy decoding, fed with the recorded tokens, or the masks of a text, or its recorded
    tokens; it is 0 for classes and for vectors, of which :func:`direction` says what is compared.
    """

    index: Annotated[int, Between(0, 65_535)]
    int8: _Values
    float32: _Values

    def __post_init__(self) -> None:
        if len(self.int8) != len(self.float32):
            raise BundleFormatError(f"{len(self.int8)} int8 values beside {len(self.float32)} float32 values")


@dataclass(frozen=True, kw_only=True)
class SteadyCase:
    """The steady steps of the case of this ``name``."""

    name: Annotated[str, Text(64, r"[a-z0-9][a-z0-9-]*")]
    steps: Annotated[tuple[SteadyStep, ...], Length(1, 65_536)]

    def __post_init__(self) -> None:
        if any(a.index >= b.index for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise BundleFormatError(f"the steps of case {self.name} must rise in index")


@dataclass(frozen=True, kw_only=True)
class QuantizedReference:
    """What the integers of ``variant`` give. ``cases`` may be few, or none: a large network has no steady steps."""

    variant: Annotated[str, Text(64, r"[a-z0-9-]+")]
    checkpoint_sha256: Annotated[str, Text(64, r"[0-9a-f]{64}")]
    cases: Annotated[tuple[SteadyCase, ...], Length(0, 10_000)]
    format: Annotated[int, Between(1, QUANTIZED_FORMAT)] = QUANTIZED_FORMAT

    def __post_init__(self) -> None:
        for name, count in Counter(case.name for case in self.cases).items():
            if count > 1:
                raise BundleFormatError(f"case {name} is given {count} times")

    def check_cases(self, reference: ReferenceCases, where: str) -> None:
        """Refuse steps that the cases of the bundle do not have.

        Raises:
            BundleFormatError: another checkpoint, an unknown case, a step beyond it, or other numbers than it gives.
        """
        if faults := list(self._misfits(reference)):
            raise_faults(where, faults)

    def _misfits(self, reference: ReferenceCases) -> Iterator[str]:
        if self.checkpoint_sha256 != reference.checkpoint_sha256:
            expected = reference.checkpoint_sha256
            yield f"checkpoint_sha256 is {self.checkpoint_sha256}, expected {expected} as in {CASES_FILE}"
        known = {case.name: case for case in reference.cases}
        for case in self.cases:
            if case.name not in known:
                yield f"case {case.name} is not in {CASES_FILE}"
                continue
            steps, values = _sizes(known[case.name])
            if case.steps[-1].index >= steps:
                yield f"step {case.steps[-1].index} of case {case.name} is beyond its {steps}"
            if any(len(step.int8) != values for step in case.steps):
                yield f"case {case.name} has a step without its {values} values"


def _sizes(case: Case) -> tuple[int, int]:
    """How many steps a case has, and how many numbers each."""
    if case.classified:
        return 1, len(case.classified.logits)
    if case.embedded:
        return 1, len(case.embedded.vector)
    if case.token_scores:
        return len(case.token_scores), len(case.token_scores[0].logits)
    return len(case.masked or (case.greedy.tokens if case.greedy else ())), 2 + FOLDS


def digest(logits: NDArray[np.float32], token: int) -> NDArray[np.float64]:
    """What is compared of ``logits (V,)``: the logarithm of their sum, the log-probability of ``token``, the folds."""
    normalizer = log_sum_exp(logits)
    return np.concatenate([[normalizer, float(logits[token]) - normalizer], fold(logits)])


def direction(vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """What is compared of a text's ``vector (D,)``: its numbers at a root mean square of 1, near the size of logits."""
    wide = vector.astype(np.float64)
    return wide / max(float(np.sqrt(np.mean(wide * wide))), 1e-20)


def read_quantized(path: Path) -> QuantizedReference:
    """Read and check a quantized reference.

    Raises:
        BundleFormatError: missing, not JSON, or with fields unknown, missing, mistyped, absurd or contradictory.
    """
    return from_json(QuantizedReference, load_json(path, MAX_QUANTIZED_BYTES), str(path))


def write_quantized(folder: Path, reference: QuantizedReference) -> None:
    """Write ``reference`` to its place in the bundle ``folder``, whole or not at all.

    Raises:
        BundleFormatError: it breaks a rule of its own schema.
    """
    path = folder / quantized_file(reference.variant)
    raw = dump_json(to_json(reference), compact=True)
    from_json(QuantizedReference, parse_json(raw, path.name), path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, raw)


def rounded(values: NDArray[np.floating]) -> tuple[float, ...]:
    """``values`` as they are kept."""
    return tuple(float(round(value, DECIMALS)) for value in values.tolist())
