"""Label-smoothed cross-entropy over a large vocabulary, a few hundred rows at a time.

The gradient is written out: ``softmax(z) - q`` for smoothed targets ``q = (1 - e) onehot + e / V`` (Vaswani et al.
2017, section 5.4). Against autograd's it never holds all rows' logits at once, and spends less time on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 512
"""Rows a chunk: 512 x 8000 float32 logits are 16 MB and stay near the cache."""


@torch.no_grad()
def smoothed_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float, low_precision: bool = False
) -> tuple[float, Tensor]:
    """Mean loss (nats) of ``hidden (M, D)`` against ``labels (M,)``, and its gradient by ``hidden (M, D)``.

    Adds the gradients of ``weight (V, D)`` and ``bias (V,)`` to their ``.grad``. ``low_precision`` multiplies in
    bfloat16 and keeps softmax and sums in float32.
    """
    dtype = torch.bfloat16 if low_precision else hidden.dtype
    matrix = weight.to(dtype)
    for parameter in (weight, bias):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    assert weight.grad is not None and bias.grad is not None
    gradient, total = torch.empty_like(hidden), 0.0
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        x = _whole(hidden[rows].to(dtype))
        loss, by_logits = _chunk(F.linear(x, matrix).float() + bias, labels[rows], smoothing)
        total += loss
        by_logits.mul_(1.0 / len(labels))
        bias.grad += by_logits.sum(0)
        by_logits = by_logits.to(dtype)
        gradient[rows] = (by_logits @ matrix)[: len(labels) - start]
        weight.grad += by_logits.t() @ x
    return total / len(labels), gradient


def _whole(x: Tensor) -> Tensor:
    """``x`` with zero rows up to a multiple of 128: few distinct shapes, since kernels are compiled per shape."""
    return F.pad(x, (0, 0, 0, -len(x) % 128))


def _chunk(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[float, Tensor]:
    """Summed loss of ``logits (M, V)`` and its gradient, in place; rows without a label count nothing."""
    if len(labels) < len(logits):
        loss, gradient = _chunk(logits[: len(labels)], labels, smoothing)
        return loss, F.pad(gradient, (0, 0, 0, len(logits) - len(labels)))
    normalizer = logits.logsumexp(1, keepdim=True)
    target = logits.gather(1, labels[:, None])
    mean = logits.mean(1, keepdim=True)
    loss = (normalizer - (1.0 - smoothing) * target - smoothing * mean).sum().item()
    gradient = logits.sub_(normalizer).exp_().sub_(smoothing / logits.shape[1])
    gradient.scatter_add_(1, labels[:, None], torch.full_like(target, smoothing - 1.0))
    return loss, gradient
