"""The bounds of :mod:`.tolerances` for networks deeper, or of more tokens, than those that they were measured on.

Rounding to few bits puts an error into every matrix product, and the scores at the end have been through all of them:
errors that are independent add up in squares, errors of one direction in proportion. Measured in int8, root mean square
over recorded logits, nats:

============== ======== ============= ======
network        products kernels       rms
============== ======== ============= ======
captions-lm    25       int8-rows     0.031
captions-mlm   25       int8-rows     0.035
translate-en-de 65      int8-rows     0.035
SmolLM2-135M   211      int8-blocks   0.14
============== ======== ============= ======

So beyond ``PRODUCTS`` bounds grow in proportion, up to ``MOST`` times; in float32, where no weight is rounded, they do
not. A sum over many logits may be off by more than one over few: by the root of their number, as errors of single
logits are independent.
"""

from __future__ import annotations

import math
from dataclasses import replace

from .bundle.cases import FOLDS
from .bundle.manifest import ModelSpec, StackSpec
from .tolerances import TOLERANCES, Tolerance

PRODUCTS = 65
"""Of the deepest network that the bounds were measured on."""
MOST = 5.0
FOLDED = 8000 // FOLDS
"""Logits in a sum of the largest vocabulary that the bounds were measured on."""


def tolerance_of(precision: str, model: ModelSpec) -> Tolerance:
    """The bounds of a precision for one network; they depend on its shape and on nothing that was recorded."""
    tolerance = TOLERANCES[precision]
    noise = 1.0 if precision == "fp32" else min(MOST, max(1.0, products(model) / PRODUCTS))
    return replace(
        tolerance,
        logit=tolerance.logit * noise,
        logit_rms=tolerance.logit_rms * noise,
        log_prob=tolerance.log_prob * noise,
        margin=tolerance.margin * noise,
        beside=tolerance.beside * noise,
        fold=tolerance.fold * noise * math.sqrt(max(1.0, model.vocab_size / FOLDS / FOLDED)),
    )


def products(model: ModelSpec) -> int:
    """Matrix products on the way to the scores of a network: those of every layer, and the last."""
    crossed = 4 if model.encoder and model.decoder else 0
    return 1 + _of_stack(model.encoder, 0) + _of_stack(model.decoder, crossed)


def _of_stack(stack: StackSpec | None, crossed: int) -> int:
    return stack.n_layers * (4 + crossed + (3 if stack.gated else 2)) if stack else 0
