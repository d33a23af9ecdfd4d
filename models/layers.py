"""The parts of "Attention Is All You Need" (Vaswani et al. 2017), each with its section and equation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import StackConfig
from .dropout import Dropout

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one attention, each ``(B, H, C, Dh)``."""


def sinusoidal_positions(n_positions: int, d_model: int) -> Tensor:
    """Position table ``(n_positions, D)``, float32: sine on even dimensions, cosine on odd ones.

    Section 3.5: ``PE(pos, 2i) = sin(pos / 10000^(2i/D))``, ``PE(pos, 2i+1) = cos(pos / 10000^(2i/D))``. Computed in
    float64, since at large positions the float32 product loses the phase.
    """
    position = torch.arange(n_positions, dtype=torch.float64)[:, None]
    frequency = torch.exp(-math.log(10000.0) * torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    table = torch.empty(n_positions, d_model, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table.float()


def look_ahead_mask(n_queries: int, key_mask: Tensor) -> Tensor:
    """Boolean mask ``(B, 1, T, C)``, true where a query may look (section 3.2.3).

    The ``T`` queries are the last of the ``C`` keys: query ``t`` sees keys up to ``C - T + t``. ``key_mask (B, C)`` is
    false for padding.
    """
    n_keys = key_mask.shape[1]
    key = torch.arange(n_keys, device=key_mask.device)
    query = torch.arange(n_queries, device=key_mask.device) + (n_keys - n_queries)
    causal = key[None, :] <= query[:, None]  # (T, C)
    return causal[None, None] & key_mask[:, None, None, :]


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """``(B, T, D) -> (B, H, T, Dh)``."""
    return x.view(x.shape[0], x.shape[1], n_heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, H, T, Dh) -> (B, T, D)``."""
    return x.transpose(1, 2).flatten(2)


class MultiHeadAttention(nn.Module):
    """Multi-head scaled dot-product attention (section 3.2, equation 1 and section 3.2.2).

    ``softmax(Q K^T / sqrt(Dh)) V`` in ``H`` heads of width ``Dh``, concatenated and projected.
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key = nn.Linear(config.d_model, config.d_model)
        self.value = nn.Linear(config.d_model, config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)

    def key_value(self, x: Tensor) -> KeyValue:
        """Keys and values of ``x (B, T, D)``, each ``(B, H, T, Dh)``."""
        return split_heads(self.key(x), self.n_heads), split_heads(self.value(x), self.n_heads)

    def forward(self, x: Tensor, key_value: KeyValue, mask: Tensor) -> Tensor:
        """Attend from ``x (B, T, D)`` under boolean ``mask``, broadcast to ``(B, H, T, C)``. Returns ``(B, T, D)``."""
        query = split_heads(self.query(x), self.n_heads)
        key, value = key_value
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(merge_heads(attended))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Position-wise feed-forward network, ``max(0, x W1 + b1) W2 + b2`` (section 3.3, equation 2)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.d_model, config.d_ff)
        self.outer = nn.Linear(config.d_ff, config.d_model)
        self.activation = F.relu if config.activation == "relu" else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D) -> (B, T, D)``."""
        return self.outer(self.activation(self.inner(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Residual connection and layer normalization around a sub-layer (section 3.1).

    ``post`` is the paper's ``LayerNorm(x + Sublayer(x))``; ``pre`` is ``x + Sublayer(LayerNorm(x))``. Dropout acts on
    the sub-layer's output (section 5.4).
    """

    def __init__(self, config: StackConfig, dropout: float) -> None:
        super().__init__()
        self.pre = config.norm_place == "pre"
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
        self.dropout = Dropout(dropout)

    def before(self, x: Tensor) -> Tensor:
        """What the sub-layer reads."""
        return self.norm(x) if self.pre else x

    def after(self, x: Tensor, sublayer: Tensor) -> Tensor:
        """What the next sub-layer gets."""
        x = x + self.dropout(sublayer)
        return x if self.pre else self.norm(x)
