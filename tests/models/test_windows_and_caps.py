"""Windows, caps, norms of heads and norms around sub-layers, against what they mean, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.layers import MultiHeadAttention, Residual, capped_attention, look_ahead_mask, window_mask
from edgewise.models.position_config import RopeConfig
from edgewise.models.transformer import Transformer

pytestmark = pytest.mark.usefixtures("no_gradients")
Compare = Callable[..., None]
STACK: dict[str, Any] = {"n_layers": 3, "d_model": 16, "n_heads": 4, "d_ff": 24}


def random_(module: nn.Module, std: float = 0.5) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.normal_(std=std, generator=generator)


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_a_query_sees_the_last_real_keys_wherever_padding_stands(window: int) -> None:
    rows = ["11111111", "00011111", "11110000", "11001101", "10000001"]
    key_mask = torch.tensor([[c == "1" for c in row] for row in rows])
    for queries in (1, 3, 8):
        mask = window_mask(look_ahead_mask(queries, key_mask), key_mask, window)
        assert mask.shape == (len(rows), 1, queries, 8)
        for row, real in enumerate(key_mask.tolist()):
            for t in range(queries):
                seen = [key for key in range(8 - queries + t + 1) if real[key]][-window:]
                assert mask[row, 0, t].nonzero().flatten().tolist() == seen, (row, t)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_capped_scores_one_by_one(kv_heads: int, assert_close: Compare) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, length, 6).double() for heads, length in ((4, 3), *[(kv_heads, 5)] * 2))
    key_mask = torch.tensor([[True] * 5, [True, True, False, True, True]])
    mask = look_ahead_mask(3, key_mask)
    found = capped_attention(query, key, value, mask, 0.7, 1.5)
    for b, head, t in ((b, h, t) for b in range(2) for h in range(4) for t in range(3)):
        shared, weights = head * kv_heads // 4, {}
        for c in range(5):
            if c <= 2 + t and key_mask[b, c]:
                score = 0.7 * float(query[b, head, t] @ key[b, shared, c])
                weights[c] = math.exp(1.5 * math.tanh(score / 1.5))
        total = sum(weights.values())
        expected = sum(weight / total * value[b, shared, c] for c, weight in weights.items())
        assert_close(found[b, head, t], expected)


def test_norms_of_heads_come_before_positions(assert_close: Compare) -> None:
    config = StackConfig(**STACK, query_key_norm=True, norm_epsilon=0.1)
    attention = MultiHeadAttention(config).double()
    random_(attention)
    x, seen = torch.randn(2, 3, 16).double(), []

    def turn(heads: Tensor) -> Tensor:
        seen.append(heads)
        return heads

    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    attention(x, attention.key_value(x, turn), mask, turn)
    for heads, linear, norm in zip(
        seen, (attention.key, attention.query), (attention.key_norm, attention.query_norm), strict=True
    ):
        plain = linear(x).view(2, 3, 4, 4).transpose(1, 2)
        assert norm is not None
        assert_close(heads, plain / (plain.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * norm.weight)


def test_a_sandwich_has_a_norm_on_both_sides_of_its_sub_layer(assert_close: Compare) -> None:
    residual = Residual(StackConfig(**STACK, norm_place="sandwich", norm="rms", norm_epsilon=0.1), 0.5).double().eval()
    random_(residual)
    x, sublayer = torch.randn(2, 3, 16).double(), torch.randn(2, 3, 16).double()

    def norm(value: Tensor, module: nn.Module | None) -> Tensor:
        assert isinstance(module, nn.RMSNorm)
        return value / (value.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * module.weight

    assert_close(residual.before(x), norm(x, residual.norm))
    assert_close(residual.after(x, sublayer), x + norm(sublayer, residual.branch_norm))
    assert StackConfig(**STACK, norm_place="sandwich").ends_in_norm


def network(**stack: Any) -> Transformer:
    decoder = StackConfig(**{**STACK, "norm": "rms", "norm_place": "sandwich", **stack})
    ids = {"vocab_size": 29, "max_positions": 40, "pad_id": 0, "start_id": 1, "end_id": 2}
    ropes = {"positions": "rotary", "rope": RopeConfig(theta=50.0), "window_rope": RopeConfig(theta=5.0)}
    model = Transformer(ModelConfig(**ids, **ropes, decoder=decoder, logit_cap=2.0)).double().eval()  # type: ignore[arg-type]
    random_(model)
    return model


WHOLE = {"window": 4, "windowed_layers": (0, 2), "unturned_layers": (1,), "query_key_norm": True, "attention_cap": 1.5}


def test_what_is_read_token_by_token_is_what_is_read_at_once(assert_close: Compare) -> None:
    model = network(**WHOLE)
    ids = torch.randint(3, 29, (2, 12), generator=torch.Generator().manual_seed(1))
    positions, mask = torch.arange(12).expand_as(ids), torch.ones_like(ids, dtype=torch.bool)
    whole, past = model.decode(ids, positions, mask)[0], None
    for t in range(12):
        state, past = model.decode(ids[:, t : t + 1], positions[:, t : t + 1], mask[:, : t + 1], past)
        assert_close(state[:, 0], whole[:, t])
    logits = model.logits(whole)
    assert logits.abs().max() < 2
    assert_close(logits, 2 * torch.tanh(model.project(whole) / 2))


def test_nothing_beyond_the_windows_of_all_layers_is_read() -> None:
    """Three layers with a window of 4 reach 9 tokens back, and no further; one layer without reaches all."""
    ids = torch.randint(3, 29, (1, 12), generator=torch.Generator().manual_seed(1))
    for layers, reach in ((None, 9), ((0, 2), 11)):
        model, changed = network(window=4, windowed_layers=layers), []
        for place in range(12):
            other = ids.clone()
            other[0, place] = 3 + (ids[0, place] - 2) % 26
            states = [
                model.decode(x, torch.arange(12)[None], torch.ones_like(x, dtype=torch.bool))[0][0, -1]
                for x in (ids, other)
            ]
            changed.append(not torch.equal(*states))
        assert changed == [place >= 11 - reach for place in range(12)]


def rotary_of(model: Transformer, layer: int) -> nn.Module | None:
    assert model.config.decoder is not None
    return model._rotary_of(layer, model.config.decoder)


def test_layers_turn_by_the_positions_that_are_theirs() -> None:
    model = network(**WHOLE)
    turned = [rotary_of(model, layer) for layer in range(3)]
    assert turned == [model.window_rotary, None, model.window_rotary]
    assert model.window_rotary is not model.rotary
    plain = network(window=4, windowed_layers=(0,))
    assert rotary_of(plain, 1) is plain.rotary
