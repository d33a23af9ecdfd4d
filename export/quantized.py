"""The reference network on the integers of a quantized variant: what an engine gives that multiplies them exactly.

It is written from what the kernels mean (the table in :mod:`edgewise.quantize.kernels`), and shares code neither with
those that write them into a graph, nor with the passes that rewrite the graph, nor with an engine. Only the order of
float32 sums may tell an engine from it, until that order sends the rounding of an activation the other way.

Some activations are quantized not by the graph but by the engine, where its processor can: those before
``MatMulNBits``, in blocks of 32 as the weights are (``int8-blocks``), and with OpenVINO those before any int8 weights,
in groups of 32. So there are two networks for one variant, by :data:`~edgewise.runtime.bundle.quantized.Arithmetic`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ExportError
from ..models.transformer import Transformer
from ..runtime.bundle.quantized import Arithmetic

GROUP = 32
"""Neighbours in a row that share a scale: weights of ``int8-blocks``, activations that an engine quantizes."""
_VOCABULARY = "vocabulary"  # the output projection among matrix names
_EXACT_FLOAT32 = 1 << 24  # the largest integer up to which float32 has them all
_FEW = 1 << 16  # weights that are worked on at once
_TINY = 1e-20  # in place of the largest of nothing but zeros


class Scaling(Protocol):
    """What large features are divided by in the weights: :class:`edgewise.quantize.kernels.Scaling` says it all."""

    @property
    def factor(self) -> NDArray[np.float32]:
        """One for each input, ``(K,)``."""

    @property
    def least(self) -> float | None:
        """A number below all inputs, if any."""


def quantized_network(
    model: Transformer,
    kernels: Mapping[str, str],
    target: str,
    arithmetic: Arithmetic,
    scalings: Mapping[str, Scaling] | None = None,
) -> QuantizedTransformer:
    """``model`` as the kernels of a variant for ``target`` carry it, with their ``scalings``, by matrix name.

    Raises:
        ExportError: a kernel whose activations depend on what else is in the tensor.
    """
    modes = {name: _activation_group(kernel, target, arithmetic) for name, kernel in kernels.items()}
    return QuantizedTransformer(model, kernels, modes, scalings or {})


def _activation_group(kernel: str, target: str, arithmetic: Arithmetic) -> int | None:
    """How many neighbours of a row share a scale; 0 for the whole row, ``None`` where activations stay float32."""
    if kernel not in ("float32", "int8-weights", "int8-rows", "int8-scaled-rows", "int8-blocks"):
        raise ExportError(f"kernel {kernel!r} mixes rows: a quantized reference needs kernels that do not")
    if kernel in ("int8-rows", "int8-scaled-rows"):
        return 0
    by_the_engine = kernel == "int8-blocks" or (kernel == "int8-weights" and target == "openvino")
    return GROUP if by_the_engine and arithmetic == "int8" else None


class QuantizedLinear(nn.Module):
    """``x (..., K) -> (..., N)``: integer weights on a scale a row or a block, activations as ``group`` says."""

    def __init__(self, weight: Tensor, bias: Tensor | None, blocked: bool, group: int | None) -> None:
        super().__init__()
        width = weight.shape[1]
        size = GROUP if blocked else width
        scale = _nearest_scale(weight) if blocked else (_largest(weight, size) / 127).clamp(min=_TINY)
        scale = scale.repeat_interleave(size, dim=1)
        self.values, self.scale, self.bias = (weight / scale).round(), scale, bias  # (N, K), (N, K), (N,)
        self.size = None if group is None or (group and width % group) else group or width

    @property
    def weight(self) -> Tensor:
        """What the integers stand for, ``(N, K)`` float32."""
        return self.values * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Sums of integers are exact; only their scales round."""
        if self.size is None:
            return F.linear(x, self.weight, self.bias)
        largest = _largest(x, self.size).clamp(min=_TINY)
        levels = (x * (127 / largest).repeat_interleave(self.size, dim=-1)).round()
        exact = torch.float32 if self.size * 127**2 <= _EXACT_FLOAT32 else torch.float64
        total = torch.zeros(*x.shape[:-1], len(self.values), dtype=torch.float64)
        for i in range(largest.shape[-1]):
            part = slice(i * self.size, (i + 1) * self.size)
            product = levels[..., part].to(exact) @ self.values[:, part].to(exact).T
            total += product * (largest[..., i : i + 1] / 127).double() * self.scale[:, part.start].double()
        y = total.float()
        return y if self.bias is None else y + self.bias


class ScaledLinear(nn.Module):
    """``x (..., K) -> (..., N)``: as ``int8-rows``, once every input has its factor.

    Inputs that have a least value are counted from it: then there are 255 levels above it, and what it stands for in
    the product is added at the end.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, scaling: Scaling) -> None:
        super().__init__()
        self.factor, self.least = torch.from_numpy(scaling.factor), scaling.least
        self.product, self.bias = QuantizedLinear(weight / self.factor, None, False, 0), bias
        self.integers = self.product if self.least is None else UnsignedLinear(self.product)

    def forward(self, x: Tensor) -> Tensor:
        """Sums of integers are exact; only their scales round."""
        least = self.least or 0.0
        y: Tensor = self.integers((x - least) * self.factor)
        y = y + least * (self.product.weight.double() * self.factor.double()).sum(1).float()
        return y if self.bias is None else y + self.bias


class UnsignedLinear(nn.Module):
    """``x (..., K) -> (..., N)`` without a negative ``x``: integer weights, 255 levels up to the largest of a row."""

    def __init__(self, signed: QuantizedLinear) -> None:
        super().__init__()
        self.values, self.scale = signed.values, signed.scale[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Sums of integers are exact; only their scales round."""
        scale = x.amax(-1, keepdim=True).clamp(min=_TINY) / 255
        levels = (x / scale).round().clamp(min=0)
        return (levels.double() @ self.values.double().T * scale.double() * self.scale.double()).float()


def _largest(x: Tensor, size: int) -> Tensor:
    """The largest magnitude of every ``size`` neighbours: ``(..., K) -> (..., K/size)``."""
    return x.reshape(*x.shape[:-1], -1, size).abs().amax(-1)


def _nearest_scale(weight: Tensor) -> Tensor:
    """What the largest of every block is 127 of, or 126, down to 64, as leaves the block nearest to what it was.

    ``(N, K) -> (N, K/32)``; rows go a few at a time, for what they need stays in the cache then.
    """
    return torch.cat([_of_few_rows(rows) for rows in weight.chunk(1 + weight.numel() // _FEW)])


def _of_few_rows(weight: Tensor) -> Tensor:
    blocks = weight.reshape(len(weight), -1, GROUP)
    largest, exact = blocks.abs().amax(2, keepdim=True), blocks.double()
    best = torch.zeros_like(largest)
    distance = torch.full_like(exact[..., :1], torch.inf)
    for levels in range(127, 63, -1):
        scale = (largest / levels).clamp(min=_TINY)
        other = ((exact / scale).round() * scale - exact).square().sum(2, keepdim=True)
        best, distance = torch.where(other < distance, scale, best), torch.minimum(other, distance)
    return best[..., 0]


class QuantizedTransformer(Transformer):
    """A reference network whose matrices are quantized; the embedding reads the integers of the output projection."""

    def __init__(
        self,
        model: Transformer,
        kernels: Mapping[str, str],
        groups: Mapping[str, int | None],
        scalings: Mapping[str, Scaling],
    ) -> None:
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        for name, module in list(self.named_modules()):
            kernel = kernels.get(name, "float32")
            if isinstance(module, nn.Linear) and name != _VOCABULARY and kernel != "float32":
                parent, _, child = name.rpartition(".")
                quantized: nn.Module = _linear(module.weight.data, module.bias, kernel, groups[name])
                if kernel == "int8-scaled-rows" and name in scalings:
                    quantized = ScaledLinear(module.weight.data, module.bias, scalings[name])
                setattr(self.get_submodule(parent), child, quantized)
        self.projection: QuantizedLinear | None = None
        if (kernel := kernels.get(_VOCABULARY, "float32")) != "float32":
            matrix = self.embedding if self.vocabulary is None else self.vocabulary
            self.projection = _linear(matrix.weight.data, self.vocabulary_bias, kernel, groups[_VOCABULARY])
            for table in filter(None, (self.embedding, self.source_embedding)):
                table.weight.data = _linear(table.weight.data, None, kernel, None).weight
        self.eval()

    def project(self, hidden: Tensor) -> Tensor:
        """See :meth:`Transformer.project`."""
        return super().project(hidden) if self.projection is None else self.projection(hidden)


def _linear(weight: Tensor, bias: Tensor | None, kernel: str, group: int | None) -> QuantizedLinear:
    return QuantizedLinear(weight, None if bias is None else bias.data, kernel == "int8-blocks", group)
