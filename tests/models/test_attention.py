"""The oracle of alignments: PyTorch's own attention weights on the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgewise.models.attention import cross_attention_weights
from edgewise.models.layers import MultiHeadAttention
from edgewise.models.transformer import Transformer

from ..tiny import END, START, tiny_model

SOURCE, TOKENS = [7, 9, 4, 11, END], [START, 5, 8, 6]


def weights_of_pytorch(attention: MultiHeadAttention, query: Tensor, memory: Tensor) -> Tensor:
    """``(H, T, S)`` by ``torch.nn.functional.multi_head_attention_forward``, which computes keys and values itself."""
    parts = (attention.query, attention.key, attention.value)
    _, weights = F.multi_head_attention_forward(
        query.transpose(0, 1),
        memory.transpose(0, 1),
        memory.transpose(0, 1),
        query.shape[2],
        attention.n_heads,
        torch.cat([p.weight for p in parts]),
        torch.cat([p.bias for p in parts]),
        None,
        None,
        False,
        0.0,
        attention.output.weight,
        attention.output.bias,
        need_weights=True,
        average_attn_weights=False,
    )
    assert weights is not None
    return weights[0]


def inputs_of(model: Transformer, layer: int) -> Tensor:
    """What the cross-attention of ``layer`` reads in one teacher-forced pass ``(1, T, D)``."""
    seen: list[Any] = []
    attention = model.decoder.layers[layer].cross_attention  # type: ignore[union-attr]
    hook = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.tensor([SOURCE]), torch.tensor([TOKENS]))
    hook.remove()
    (found,) = seen
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("layer", [0, 1])
def test_the_weights_are_pytorchs(layer: int, assert_close: Callable[..., None]) -> None:
    model = tiny_model(4)
    with torch.inference_mode():
        memory = model.encode(torch.tensor([SOURCE]), torch.ones(1, len(SOURCE), dtype=torch.bool))
        attention = model.decoder.layers[layer].cross_attention  # type: ignore[union-attr]
        expected = weights_of_pytorch(attention, inputs_of(model, layer), memory)  # type: ignore[arg-type]
    found = cross_attention_weights(model, SOURCE, TOKENS, layer)
    assert found.shape == (2, len(TOKENS), len(SOURCE))
    assert_close(found, expected)
    assert_close(found.sum(-1), torch.ones(2, len(TOKENS)))


def test_later_tokens_change_nothing(assert_close: Callable[..., None]) -> None:
    model = tiny_model(4)
    whole, part = (cross_attention_weights(model, SOURCE, tokens, 1) for tokens in (TOKENS, TOKENS[:2]))
    assert_close(whole[:, :2], part)
    assert not torch.equal(whole[:, 0], whole[:, 1])
