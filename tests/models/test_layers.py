"""The parts of the network against numbers worked by hand and against PyTorch's own modules."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.models.config import StackConfig
from edgewise.models.layers import (
    FeedForward,
    MultiHeadAttention,
    Residual,
    look_ahead_mask,
    merge_heads,
    sinusoidal_positions,
    split_heads,
)

pytestmark = pytest.mark.usefixtures("no_gradients")

StackConfigs = Callable[..., StackConfig]
Compare = Callable[..., None]


def test_sinusoids_against_numbers_worked_by_hand(assert_close: Compare) -> None:
    """Width 4: the angles are ``pos`` and ``pos / 100``."""
    by_hand = [
        [0.0, 1.0, 0.0, 1.0],
        [0.8414709848, 0.5403023059, 0.0099998333, 0.9999500004],
        [0.9092974268, -0.4161468365, 0.0199986667, 0.9998000067],
        [0.1411200081, -0.9899924966, 0.0299955002, 0.9995500337],
    ]
    assert_close(sinusoidal_positions(4, 4), torch.tensor(by_hand), atol=1e-7)


def test_sinusoids_keep_their_phase_far_out(assert_close: Compare) -> None:
    """The second angle of position 5000 at width 512 is 4823.308...: in float32 it would be off by up to 2e-4."""
    angle = 5000 / 10000 ** (2 / 512)
    assert_close(
        sinusoidal_positions(5001, 512)[5000, 2:4], torch.tensor([math.sin(angle), math.cos(angle)]), atol=1e-6
    )


def test_sinusoid_wavelengths_are_a_geometric_progression(assert_close: Compare) -> None:
    """Width 6: the angle of pair i is pos / 10000^(2i/6), that is pos, pos / 21.5443..., pos / 464.1588..."""
    expected = [f(7 / scale) for scale in (1.0, 21.544346900318843, 464.15888336127796) for f in (math.sin, math.cos)]
    assert_close(sinusoidal_positions(8, 6)[7], torch.tensor(expected), atol=1e-7)


def test_look_ahead_mask_by_hand() -> None:
    """Two queries after one key of the past; the second row's middle key is padding."""
    mask = look_ahead_mask(2, torch.tensor([[True, True, True], [True, False, True]]))
    assert mask.tolist() == [[[[True, True, False], [True, True, True]]], [[[True, False, False], [True, False, True]]]]


def test_heads_split_and_merge() -> None:
    x = torch.arange(12.0).view(1, 2, 6)
    split = split_heads(x, 3)
    assert split.tolist() == [[[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]]
    assert torch.equal(merge_heads(split), x)


def _attention_pair(config: StackConfig) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    """Ours and PyTorch's with the same random weights."""
    ours = MultiHeadAttention(config).double()
    theirs = nn.MultiheadAttention(config.d_model, config.n_heads, batch_first=True).double()
    for parameter in ours.parameters():
        parameter.normal_(std=0.4)
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    return ours, theirs


@pytest.mark.parametrize("n_heads", [1, 4])
@pytest.mark.parametrize("case", ["self, look-ahead", "cross, padding"])
def test_attention_equals_pytorch(n_heads: int, case: str, stack_config: StackConfigs, assert_close: Compare) -> None:
    torch.manual_seed(1)
    ours, theirs = _attention_pair(stack_config(n_heads=n_heads))
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    if case == "self, look-ahead":
        keys, mask = x, torch.ones(5, 5).tril().bool()
        expected = theirs(x, x, x, attn_mask=~mask, need_weights=False)[0]
    else:
        keys, padding = torch.randn(3, 7, 16, dtype=torch.float64), torch.arange(7) < torch.tensor([[7], [1], [4]])
        mask = padding[:, None, None, :]
        expected = theirs(x, keys, keys, key_padding_mask=~padding, need_weights=False)[0]
    assert_close(ours(x, ours.key_value(keys), mask), expected)


def test_attention_by_hand(stack_config: StackConfigs, assert_close: Compare) -> None:
    """Identity projections, one head of width 2: softmax([2, 0] / sqrt(2)) weighs the values (2, 0) and (0, 1)."""
    attention = MultiHeadAttention(stack_config(d_model=2, n_heads=1))
    for linear in (attention.query, attention.key, attention.value, attention.output):
        linear.weight.copy_(torch.eye(2))
        linear.bias.zero_()
    x = torch.tensor([[[1.0, 0.0]]])
    keys = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    first = 1 / (1 + math.exp(-math.sqrt(2)))
    mask = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    assert_close(attention(x, attention.key_value(keys), mask), torch.tensor([[[2 * first, 1 - first]]]))


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_heads_of_any_width_one_by_one(
    kv_heads: int, scale: float | None, stack_config: StackConfigs, assert_close: Compare
) -> None:
    """4 heads of width 6 in a network of width 16, each written out by itself."""
    torch.manual_seed(2)
    config = stack_config(n_heads=4, n_kv_heads=kv_heads, head_dim=6, attention_scale=scale)
    attention = MultiHeadAttention(config).double()
    x, keys = torch.randn(5, 16, dtype=torch.float64), torch.randn(7, 16, dtype=torch.float64)
    expected = attention.output.bias
    for head in range(4):
        own, shared = slice(6 * head, 6 * head + 6), slice(6 * (head * kv_heads // 4), 6 * (head * kv_heads // 4) + 6)
        query, key, value = attention.query(x)[:, own], attention.key(keys)[:, shared], attention.value(keys)[:, shared]
        weights = (query @ key.T * (scale or 1 / math.sqrt(6))).softmax(-1)
        expected = expected + weights @ value @ attention.output.weight[:, own].T
    mask = torch.ones(1, 1, 5, 7, dtype=torch.bool)
    assert_close(attention(x[None], attention.key_value(keys[None]), mask), expected[None])


@pytest.mark.parametrize(
    ("activation", "activate"),
    [("relu", lambda v: max(0.0, v)), ("gelu", lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))],
    ids=["relu", "gelu"],
)
def test_feed_forward_by_hand(
    activation: str, activate: Callable[[float], float], stack_config: StackConfigs, assert_close: Compare
) -> None:
    """Inner values 3 and -1 before the activation; the output is 2a + 5b + 0.5 and a - b - 0.25."""
    feed_forward = FeedForward(stack_config(d_model=2, n_heads=1, d_ff=2, activation=activation))
    feed_forward.inner.load_state_dict(
        {"weight": torch.tensor([[1.0, 1.0], [1.0, -2.0]]), "bias": torch.tensor([0.0, 2.0])}
    )
    feed_forward.outer.load_state_dict(
        {"weight": torch.tensor([[2.0, 5.0], [1.0, -1.0]]), "bias": torch.tensor([0.5, -0.25])}
    )
    a, b = activate(3.0), activate(-1.0)
    expected = torch.tensor([[[2 * a + 5 * b + 0.5, a - b - 0.25]]])
    assert_close(feed_forward(torch.tensor([[[1.0, 2.0]]])), expected)


@pytest.mark.parametrize("place", ["post", "pre"])
def test_residual_places_its_normalization(place: str, stack_config: StackConfigs, assert_close: Compare) -> None:
    residual = Residual(stack_config(norm_place=place, norm_epsilon=0.1), dropout=0.5).eval()
    for parameter in residual.parameters():
        parameter.normal_()
    x, sublayer = torch.randn(2, 3, 16), torch.randn(2, 3, 16)

    def norm(value: Tensor) -> Tensor:
        return F.layer_norm(value, (16,), residual.norm.weight, residual.norm.bias, eps=0.1)

    assert_close(residual.before(x), x if place == "post" else norm(x))
    assert_close(residual.after(x, sublayer), norm(x + sublayer) if place == "post" else x + sublayer)
