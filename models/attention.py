"""Cross-attention weights of the reference, which its fused attention does not give: the oracle of alignments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .decode import remember
from .layers import MultiHeadAttention, split_heads
from .transformer import Transformer


@torch.inference_mode()
def cross_attention_weights(model: Transformer, source: Sequence[int], tokens: Sequence[int], layer: int) -> Tensor:
    """Weights ``(H, T, S)`` with which decoder layer ``layer``, having read ``tokens (T,)``, looks at ``source (S,)``.

    ``softmax(Q K^T * scale)`` of Vaswani et al. 2017, equation 1, written out; each row sums to one. Row ``t`` is
    what token ``t`` looks at, the start token being the first of ``tokens``.
    """
    assert model.decoder is not None
    attention = model.decoder.layers[layer].cross_attention
    assert isinstance(attention, MultiHeadAttention)
    seen: list[Tensor] = []

    def keep(_: Any, inputs: tuple[Any, ...]) -> None:
        query, key = split_heads(attention.query(inputs[0]), attention.n_heads), inputs[1][0]
        scale = query.shape[3] ** -0.5 if attention.scale is None else attention.scale
        seen.append((query @ key.transpose(2, 3) * scale).softmax(-1)[0])

    hook = attention.register_forward_pre_hook(keep)
    try:
        cross, mask = remember(model, [source])
        ids = torch.tensor([list(tokens)])
        positions = torch.arange(ids.shape[1])[None]
        model.decode(ids, positions, torch.ones_like(ids, dtype=torch.bool), cross=cross, cross_mask=mask)
    finally:
        hook.remove()
    return seen[0]
