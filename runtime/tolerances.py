"""How far an engine may stand from PyTorch before ``verify`` fails. Constants, and never taken from a bundle.

They bound differences from the recorded float32 reference. An engine of float32 differs by the order of its sums; an
int8 variant by its rounding, which is large on single logits and small on average: so a wide bound on the largest
difference stands beside a tight one on the root mean square over all recorded logits. Bounds of vectors are from
all-MiniLM-L6-v2: fp32 1.7e-6 at most and 1e-6 rms; int8 0.11 and 0.063; int4 0.48 and 0.38, which is a cosine of 0.93;
int8-fast, which was not measured, twice the bounds of int8.

Measured on the four shipped checkpoints, ONNX Runtime and OpenVINO (int4: ONNX Runtime alone), the worst of all:

========== ======= ======= ======== ====== =========
precision  logit   rms     log-prob fold   agreement
========== ======= ======= ======== ====== =========
fp32       1.1e-5  1.5e-6  8.5e-6   1.0e-4 100 %
int8       0.24    0.036   0.11     3.3    97.8 %
int8-fast  0.25    0.040   0.091    3.3    97.7 %
int4       1.3     0.17    0.80     16     89.7 %
========== ======= ======= ======== ====== =========

The bounds of int4 are 1.4 times that of the root mean square and of the share that disagrees, about twice the largest
differences, and 1.8 times the 0.54 nats by which the reference preferred its own token at most where int4 has another.
Those checkpoints were not trained for four bits. SmolLM2-135M, which came in four bits, lies within the same bounds.

Damage below that rounding does not show there: in fp32 next to nothing, in int8 a few changed integers among millions,
in int4 more. So an int8 variant is compared with its own integers besides (:mod:`edgewise.runtime.own_integers`), at
steps where a healthy engine can hardly differ. There ``STEADY_STEP`` and ``STEADY_SHARE`` hold. Of the steady steps of
the shipped checkpoints ONNX Runtime gave at least 87 %, the translator's 95 % or more at every level of graph
optimization, with one and two threads and in batches of 1 to 32; OpenVINO at least 95 %; both 100 % where activations
stay float32. The median difference was 4e-5 at most.

Of int4 and int8-fast no such integers are recorded, and a deep int8 network has no steady steps, as some rounding
always goes the other way: there all damage within the bounds stays unseen, and the summary of ``verify`` says so.

What stays unseen elsewhere are weights that no recorded step uses, those of a ReLU that stays shut above all: of single
integers of the shipped translator with their top bit turned over 8 of 40, of four at once none in 40 trials. And where
activations are rounded, rows of an embedding that no output projection shares: each occurs in a text or two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Bounds for one precision; logits and log-probabilities in nats.

    Logits are compared less the logarithm of their sum: what all have in common changes no probability. ``logit``: one
    of them, or that logarithm. ``logit_rms``: root mean square over all
    recorded logits. ``log_prob``: the log-probability of a chosen token. ``fold``: a signed sum over a sixteenth of
    the vocabulary. ``margin``: a token may differ where the reference preferred its own by no more than this.
    ``agreement``: least share of positions whose best token is the reference's. ``vector``: distance of a text's vector
    from the reference's, as a share of its length; ``vector_rms``: root mean square of it over all cases. ``beside``:
    a log-probability among the best of a step, of a sentence alone and of the same beside others that joined;
    ``rows_are_their_own``: most do not move at all.
    """

    logit: float
    logit_rms: float
    log_prob: float
    fold: float
    margin: float
    agreement: float
    vector: float
    vector_rms: float
    beside: float
    rows_are_their_own: bool = True


TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(
        logit=2e-4,
        logit_rms=2e-5,
        log_prob=1e-4,
        fold=1e-3,
        margin=1e-4,
        agreement=0.999,
        vector=1e-4,
        vector_rms=1e-5,
        beside=1e-4,
    ),
    "int8": Tolerance(
        logit=0.5,
        logit_rms=0.05,
        log_prob=0.4,
        fold=6.0,
        margin=0.3,
        agreement=0.97,
        vector=0.2,
        vector_rms=0.1,
        beside=0.2,
    ),
    "int8-fast": Tolerance(
        logit=0.8,
        logit_rms=0.08,
        log_prob=0.6,
        fold=7.0,
        margin=0.5,
        agreement=0.95,
        vector=0.4,
        vector_rms=0.2,
        beside=0.8,
        rows_are_their_own=False,
    ),
    "int4": Tolerance(
        logit=2.5,
        logit_rms=0.24,
        log_prob=1.6,
        fold=30.0,
        margin=1.0,
        agreement=0.85,
        vector=0.8,
        vector_rms=0.55,
        beside=0.2,
    ),
}

AGREEMENT_FEWEST = 100
"""With fewer positions their share says nothing: one undecided case would be more than the bound."""
STEADY_STEP = 1e-3
"""Nats between an engine and the integers of its variant at a steady step; where an activation was rounded the other
way, a sum over a sixteenth of the vocabulary differs by a hundred times that."""
STEADY_SHARE = 0.5
"""Least share of the steady steps that must lie within ``STEADY_STEP``; all of them where no activation is rounded."""
STEADY_FEWEST = 16
"""With fewer steady steps nothing is concluded. Each way in which a step is asked is judged by itself."""
