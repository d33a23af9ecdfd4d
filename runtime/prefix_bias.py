"""A prefix that is likelier and not certain: biased decoding (Arivazhagan et al. 2019, section 4.2).

As long as a sequence is a beginning of the prefix, the distribution of its next token is mixed with certainty of the
token ``t`` that the prefix goes on with::

    p'(i) = (1 - beta) * p(i) + beta * [i = t]

A sequence that took another token, or all of the prefix, is on its own. CTranslate2 calls it ``prefix_bias_beta``.
"""

from __future__ import annotations

from math import log, log1p

import numpy as np

from .sampling import Doubles


def next_in_prefix(new: tuple[int, ...], prefix: tuple[int, ...]) -> int | None:
    """The token that ``prefix`` goes on with after ``new``, if ``new`` is a beginning of it."""
    return prefix[len(new)] if len(new) < len(prefix) and new == prefix[: len(new)] else None


def biased(log_probs: Doubles, token: int, beta: float) -> Doubles:
    """Log-probabilities ``(V,)`` mixed with certainty of ``token``.

    Where ``token`` is impossible, by the rules, the distribution stays as it is: what must not come does not come.
    """
    if log_probs[token] == -np.inf:
        return log_probs
    mixed: Doubles = log_probs + log1p(-beta)
    mixed[token] = np.logaddexp(mixed[token], log(beta))
    return mixed
