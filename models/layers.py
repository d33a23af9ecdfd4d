"""The parts of "Attention Is All You Need" (Vaswani et al. 2017) and of its descendants, each with its source."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Activation, StackConfig
from .dropout import Dropout
from .position_config import RopeConfig

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one attention, each ``(B, H, C, Dh)``; fewer heads where the configuration says so."""
Rotate = Callable[[Tensor], Tensor]
"""Turns queries or keys ``(B, H, T, Dh)`` by the positions of their tokens."""


def sinusoidal_positions(n_positions: int, d_model: int, halves: bool = False) -> Tensor:
    """Position table ``(n_positions, D)``, float32: sine on even dimensions, cosine on odd ones.

    In ``halves``, all sines come before all cosines: the order of Marian and of tensor2tensor.

    Section 3.5: ``PE(pos, 2i) = sin(pos / 10000^(2i/D))``, ``PE(pos, 2i+1) = cos(pos / 10000^(2i/D))``. Computed in
    float64, since at large positions the float32 product loses the phase.
    """
    position = torch.arange(n_positions, dtype=torch.float64)[:, None]
    frequency = torch.exp(-math.log(10000.0) * torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    sine, cosine = torch.sin(position * frequency), torch.cos(position * frequency)
    if halves:
        return torch.cat([sine, cosine], dim=1).float()
    return torch.stack([sine, cosine], dim=2).flatten(1).float()


def rotary_frequencies(config: RopeConfig, head_dim: int) -> Tensor:
    """Radians a position ``(Dh/2,)``, float64 (Su et al. 2021, section 3.2.2), scaled as :class:`RopeConfig` says."""
    frequency = config.theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if config.scaling == "linear":
        return frequency / config.factor
    if config.scaling == "llama3":
        assert config.original_positions is not None
        waves = config.original_positions * frequency / (2 * math.pi)  # in the original context
        share = (waves - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
        kept = share.clamp(0.0, 1.0)
        return kept * frequency + (1 - kept) * frequency / config.factor
    if config.scaling == "yarn":
        first, last = _yarn_range(config, head_dim)
        kept = 1 - ((torch.arange(head_dim // 2, dtype=torch.float64) - first) / (last - first)).clamp(0.0, 1.0)
        return kept * frequency + (1 - kept) * frequency / config.factor
    if config.scaling == "longrope":
        return frequency / torch.tensor(config.short_factors, dtype=torch.float64)
    return frequency


def _yarn_range(config: RopeConfig, head_dim: int) -> tuple[float, float]:
    """The last frequency that is left, and the first that is divided: ``beta`` turns in the original context.

    Peng et al. 2023, section 3.2; rounded and bounded as in ``yarn/scaled_rope`` of github.com/jquesnelle/yarn.
    """
    assert config.original_positions is not None
    turns = [config.original_positions / (beta * 2 * math.pi) for beta in (config.beta_fast, config.beta_slow)]
    first, last = (head_dim * math.log(turn) / (2 * math.log(config.theta)) for turn in turns)
    if config.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    return first, last + 0.001 if first == last else last


def rotate_halves(x: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor) -> Tensor:
    """Turn ``x (B, H, T, Dh)`` by the angles of ``positions (B, T)`` in tables ``(max_positions, Dh/2)``.

    Su et al. 2021, equation 34; a pair is not ``(2i, 2i + 1)`` but ``(i, i + Dh/2)``, as Hugging Face stores weights.
    """
    cos, sin = cosine[positions][:, None], sine[positions][:, None]  # (B, 1, T, Dh/2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Rotary(nn.Module):
    """Rotary positions: tables of cosines and sines, and what turns with them."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: RopeConfig, head_dim: int, max_positions: int) -> None:
        super().__init__()
        turned = config.rotary_dim or head_dim
        angle = torch.arange(max_positions, dtype=torch.float64)[:, None] * rotary_frequencies(config, turned)
        tables = (config.attention_factor * angle.cos(), config.attention_factor * angle.sin())
        still = (head_dim - turned) // 2  # pairs that stay as they are
        cosine, sine = (F.pad(table, (0, still), value=value) for table, value in zip(tables, (1.0, 0.0), strict=True))
        self.register_buffer("cosine", cosine.float(), persistent=False)
        self.register_buffer("sine", sine.float(), persistent=False)
        self.turn = rotate_halves

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x (B, H, T, Dh)``, ``positions (B, T) -> (B, H, T, Dh)``."""
        return self.turn(x, self.cosine, self.sine, positions)


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


def window_mask(mask: Tensor, key_mask: Tensor, window: int) -> Tensor:
    """A look-ahead ``mask (B, 1, T, C)`` whose queries see the last ``window`` keys that are no padding.

    Jiang et al. 2023, section 2. Padding between two tokens puts no distance between them.
    """
    count = key_mask.long().cumsum(1)  # (B, C)
    queries = count[:, mask.shape[3] - mask.shape[2] :]  # (B, T)
    return mask & (queries[:, None, :, None] - count[:, None, None, :] < window)


def both_ways_mask(mask: Tensor, window: int) -> Tensor:
    """Keys that queries of an encoder see less than ``window`` away: ``mask (B, S)``, false for padding, at the right.

    ``(B, 1, S, S)``; Beltagy et al. 2020, section 3.1.
    """
    place = torch.arange(mask.shape[1], device=mask.device)
    near = (place[:, None] - place[None, :]).abs() < window  # (S, S)
    return mask[:, None, None, :] & near[None, None]


def split_heads(x: Tensor, n_heads: int, norm: nn.Module | None = None) -> Tensor:
    """``(B, T, H*Dh) -> (B, H, T, Dh)``, every head normalized by ``norm`` where there is one."""
    heads = x.view(x.shape[0], x.shape[1], n_heads, -1)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, H, T, Dh) -> (B, T, H*Dh)``."""
    return x.transpose(1, 2).flatten(2)


def capped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float) -> Tensor:
    """``softmax(cap * tanh(Q K^T * scale / cap)) V`` under ``mask`` (Gemma Team 2024, section 2).

    ``query (B, H, T, Dh)``, ``key`` and ``value (B, Hkv, C, Dh)``, boolean ``mask (B, 1, T, C)`` -> ``(B, H, T, Dh)``.
    """
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    scores = cap * torch.tanh(query @ key.transpose(2, 3) * scale / cap)
    lowest = torch.finfo(scores.dtype).min  # not infinity: a query that sees nothing gets numbers, which nobody reads
    return scores.masked_fill(~mask, lowest).softmax(-1) @ value


class MultiHeadAttention(nn.Module):
    """Multi-head scaled dot-product attention (section 3.2, equation 1 and section 3.2.2).

    ``softmax(Q K^T / sqrt(Dh)) V``, or another scale, in ``H`` heads of width ``Dh``, concatenated and projected.
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.n_heads, self.kv_heads, self.scale = config.n_heads, config.kv_heads, config.attention_scale
        whole, width = config.n_heads * config.head_width, self.kv_heads * config.head_width
        bias = config.attention_bias
        output_bias = bias if config.attention_output_bias is None else config.attention_output_bias
        self.query = nn.Linear(config.d_model, whole, bias=bias)
        self.key = nn.Linear(config.d_model, width, bias=bias)
        self.value = nn.Linear(config.d_model, width, bias=bias)
        self.output = nn.Linear(whole, config.d_model, bias=output_bias)
        self.cap, self.attend_capped = config.attention_cap, capped_attention
        self.query_norm = self.key_norm = None
        if config.query_key_norm:
            self.query_norm = nn.RMSNorm(config.head_width, eps=config.norm_epsilon)
            self.key_norm = nn.RMSNorm(config.head_width, eps=config.norm_epsilon)

    def key_value(self, x: Tensor, rotate: Rotate | None = None) -> KeyValue:
        """Keys, turned where ``rotate`` says so, and values of ``x (B, T, D)``, each ``(B, H, T, Dh)``."""
        key = split_heads(self.key(x), self.kv_heads, self.key_norm)
        return key if rotate is None else rotate(key), split_heads(self.value(x), self.kv_heads)

    def forward(self, x: Tensor, key_value: KeyValue, mask: Tensor | None, rotate: Rotate | None = None) -> Tensor:
        """Attend from ``x (B, T, D)`` under ``mask``, broadcast to ``(B, H, T, C)``. Returns ``(B, T, D)``.

        A boolean mask is true where a query may look; one of numbers is added to the scores; ``None``: everywhere.
        """
        query = split_heads(self.query(x), self.n_heads, self.query_norm)
        key, value = key_value
        query = query if rotate is None else rotate(query)
        if self.cap is not None:
            assert mask is not None
            scale = query.shape[3] ** -0.5 if self.scale is None else self.scale
            attended = self.attend_capped(query, key, value, mask, scale, self.cap)
        else:
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=self.scale, enable_gqa=self.kv_heads < self.n_heads
            )
        return self.output(merge_heads(attended))  # type: ignore[no-any-return]


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """Position-wise feed-forward network, ``max(0, x W1 + b1) W2 + b2`` (section 3.3, equation 2).

    Gated, ``activation(x Wg) * (x W1)`` takes the place of the first factor (Shazeer 2020, equation 6).
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        bias = config.feed_forward_bias
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=bias) if config.gated else None
        self.inner = nn.Linear(config.d_model, config.d_ff, bias=bias)
        self.outer = nn.Linear(config.d_ff, config.d_model, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D) -> (B, T, D)``."""
        inner = self.inner(x)
        hidden = self.activation(inner) if self.gate is None else self.activation(self.gate(x)) * inner
        return self.outer(hidden)  # type: ignore[no-any-return]


def norm(config: StackConfig) -> nn.Module:
    """The normalization of a stack, over the last axis."""
    if config.norm == "layer":
        return layer_norm(config, config.d_model)
    return nn.RMSNorm(config.d_model, eps=config.norm_epsilon)


def layer_norm(config: StackConfig, width: int) -> nn.LayerNorm:
    """A LayerNorm of ``width`` numbers as a stack has it."""
    return nn.LayerNorm(width, eps=config.norm_epsilon, bias=config.norm_bias)


class Residual(nn.Module):
    """Residual connection and normalization around a sub-layer (section 3.1).

    ``post`` is the paper's ``LayerNorm(x + Sublayer(x))``; ``pre`` is ``x + Sublayer(LayerNorm(x))``; ``sandwich`` is
    ``x + LayerNorm'(Sublayer(LayerNorm(x)))``. Dropout acts on the sub-layer's output (section 5.4).
    """

    def __init__(self, config: StackConfig, dropout: float) -> None:
        super().__init__()
        self.pre = config.norm_place != "post"
        self.norm = norm(config)
        self.branch_norm = norm(config) if config.norm_place == "sandwich" else None
        self.dropout = Dropout(dropout)

    def before(self, x: Tensor) -> Tensor:
        """What the sub-layer reads."""
        return self.norm(x) if self.pre else x

    def after(self, x: Tensor, sublayer: Tensor) -> Tensor:
        """What the next sub-layer gets."""
        x = x + self.dropout(sublayer if self.branch_norm is None else self.branch_norm(sublayer))
        return x if self.pre else self.norm(x)
