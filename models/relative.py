"""Relative positions (Raffel et al. 2020, section 2.1): a bias of every head for how far a key is from a query.

Reference: ``T5Attention.compute_bias`` and ``_relative_position_bucket`` of transformers 5.24.0
(``models/t5/modeling_t5.py``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .position_config import RelativeConfig

NEVER = -1e30
"""A score whose weight is zero; minus infinity would make NaN of a query that sees nothing."""


def distance_buckets(config: RelativeConfig, both_ways: bool) -> Tensor:
    """The bucket of every offset of a key from its query, ``-max_distance`` to ``max_distance``, int64.

    Half of a side's buckets are of one distance each, the others of ranges that grow by a factor, up to
    ``max_distance``; farther keys are in the last. ``both_ways``: keys behind a query have the first half of the
    buckets, those ahead the second; otherwise all are of keys behind, and nothing ahead is looked at.
    """
    offset = torch.arange(-config.max_distance, config.max_distance + 1)
    side = config.buckets // 2 if both_ways else config.buckets
    distance = offset.abs() if both_ways else -offset.clamp(max=0)
    exact = side // 2
    # In float32 and in this order, as the library does: at the edge of a range a rounding decides.
    share = torch.log(distance.float() / exact) / math.log(config.max_distance / exact)
    ranged = (exact + (share.clamp(min=0) * (side - exact)).long()).clamp(max=side - 1)
    bucket = torch.where(distance < exact, distance, ranged)
    return bucket + side * (offset > 0) if both_ways else bucket


class RelativeBias(nn.Module):
    """A number for every bucket and head, added to the scores of an attention."""

    buckets: Tensor

    def __init__(self, config: RelativeConfig, n_heads: int, both_ways: bool) -> None:
        super().__init__()
        self.farthest = config.max_distance
        self.weight = nn.Parameter(torch.empty(config.buckets, n_heads).normal_(std=0.02))
        self.register_buffer("buckets", distance_buckets(config, both_ways), persistent=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions ``(B, T)`` and ``(B, C)`` -> what is added to the scores ``(B, H, T, C)``."""
        offset = keys[:, None, :] - queries[:, :, None]  # (B, T, C)
        bucket = self.buckets[offset.clamp(-self.farthest, self.farthest) + self.farthest]
        return nn.functional.embedding(bucket, self.weight).permute(0, 3, 1, 2)  # (B, T, C, H) -> (B, H, T, C)
