"""How far an engine may stand from PyTorch before ``verify`` fails. Constants, and never taken from a bundle.

They bound differences from the recorded float32 reference. An engine of float32 differs by the order of its sums; an
int8 variant by its rounding, which is large on single logits and small on average: so a wide bound on the largest
difference stands beside a tight one on the root mean square over all recorded logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Bounds for one precision; logits and log-probabilities in nats.

    ``logit``: one logit, or the logarithm of the sum over the vocabulary. ``logit_rms``: root mean square over all
    recorded logits. ``log_prob``: the log-probability of a chosen token. ``fold``: a signed sum over a sixteenth of
    the vocabulary. ``margin``: a token may differ where the reference preferred its own by no more than this.
    ``agreement``: least share of positions whose best token is the reference's.
    """

    logit: float
    logit_rms: float
    log_prob: float
    fold: float
    margin: float
    agreement: float


TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(logit=5e-4, logit_rms=5e-5, log_prob=1e-4, fold=1e-2, margin=1e-4, agreement=0.999),
    "int8": Tolerance(logit=1.5, logit_rms=0.15, log_prob=0.5, fold=25.0, margin=0.6, agreement=0.95),
    "int8-fast": Tolerance(logit=2.5, logit_rms=0.3, log_prob=1.0, fold=50.0, margin=1.2, agreement=0.9),
}
