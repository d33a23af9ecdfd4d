"""The bounds of :mod:`.tolerances` for networks deeper, or of more tokens, than those that they were measured on.

Rounding to few bits puts an error into every matrix product, and the scores at the end have been through all of them.
Independent errors would add up in squares, errors of one direction in proportion; the bounds of int8 and int8-fast grow
in proportion to the products beyond ``PRODUCTS``, up to ``MOST`` times. That is a model, not a measurement: one deep
network was measured, and in int8 it loses more than the model allows. So its int8 variant fails ``verify``, on an
engine that computes what was exported. Measured in int8, nats:

=============== ======== =========== ====== ====== ========= ===== =========
network         products kernels     logit  rms    log-prob  fold  agreement
=============== ======== =========== ====== ====== ========= ===== =========
shipped, worst  65       int8-rows   0.24   0.036  0.11      3.3   97.8 %
SmolLM2-135M    211      int8-blocks 2.2    0.16   0.55      49    96.3 %
its bounds                           1.6    0.16   1.3       48    97 %
Whisper tiny.en 65       as chosen   1.0    0.18   0.35      40    95.0 %
the same        65       OpenVINO's  0.90   0.18   0.24      35    98.8 %
its bounds                           2.5    0.25   2.0       76    93 %
=============== ======== =========== ====== ====== ========= ===== =========

A network that hears is no deeper, and its rounding no smaller on speech than on what a bundle's cases hear: along jfk's
sentence 0.13 and 0.18 rms. Most is of the output projection where a row of it has one scale (0.15 alone), and of inputs
that have one (0.24 where all have). So its bounds are ``MOST`` times those of the shipped networks, and of the share
that disagrees 1.4 times what was measured. Larger ones were not measured.

Bounds of int4 do not grow: those of shallow networks leave SmolLM2 room, whose weights came in four bits and lose
nothing; a deep network whose weights are rounded anew was not measured, and may fail. Nor do those of float32, but for
sums of logits: the last digits of a deep network are off by more (SmolLM2 9.1e-6 rms, the shipped ones 2.3e-6), most
where a state is large: single logits of a repeated word by 1.3e-4, and a sum by 0.0033, where 0.0025 was allowed.

A sum over many logits may be off by more than one over few: by the root of their number, as if errors of single logits
were independent.
"""

from __future__ import annotations

import math
from dataclasses import replace

from .bundle.cases import FOLDS
from .bundle.model_spec import ModelSpec, StackSpec
from .tolerances import TOLERANCES, Tolerance

PRODUCTS = 65
"""Of the deepest network that the bounds were measured on."""
MOST = 5.0
HEARD_AGREEMENT = 0.93
"""Least share of positions, of a network that hears, whose best token is the reference's."""
FOLDED = 8000 // FOLDS
"""Logits in a sum of the largest vocabulary that the bounds were measured on."""


def tolerance_of(precision: str, model: ModelSpec) -> Tolerance:
    """The bounds of a precision for one network; they depend on its shape and on nothing that was recorded."""
    tolerance = TOLERANCES[precision]
    grows, depth = precision in ("int8", "int8-fast"), min(MOST, max(1.0, products(model) / PRODUCTS))
    noise, longer = depth if grows else 1.0, math.sqrt(max(1.0, model.vocab_size / FOLDS / FOLDED))
    if grows and model.speech:
        noise, tolerance = MOST, replace(tolerance, agreement=min(tolerance.agreement, HEARD_AGREEMENT))
    return replace(
        tolerance,
        logit=tolerance.logit * noise,
        logit_rms=tolerance.logit_rms * noise,
        log_prob=tolerance.log_prob * noise,
        margin=tolerance.margin * noise,
        beside=tolerance.beside * noise,
        fold=tolerance.fold * (depth if precision == "fp32" else noise) * longer,
    )


def products(model: ModelSpec) -> int:
    """Matrix products on the way to the scores of a network: those of every layer, and the last."""
    crossed = 4 if model.encoder and model.decoder else 0
    return 1 + _of_stack(model.encoder, 0) + _of_stack(model.decoder, crossed)


def _of_stack(stack: StackSpec | None, crossed: int) -> int:
    return stack.n_layers * (4 + crossed + (3 if stack.gated else 2)) if stack else 0
