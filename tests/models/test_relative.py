"""Relative positions against buckets worked by hand, and what they promise: distances count, places do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.position_config import RelativeConfig
from edgewise.models.relative import RelativeBias, distance_buckets
from edgewise.models.transformer import Transformer

pytestmark = pytest.mark.usefixtures("no_gradients")
Compare = Callable[..., None]


def test_buckets_by_hand() -> None:
    """Of 8 buckets a side has 4: distances 0 and 1 their own, then 2 and 3, 4 and more: 2 * 4 ** (1 / 2) is 4."""
    relative = RelativeConfig(buckets=8, max_distance=8)
    behind, ahead = [3, 3, 3, 3, 3, 2, 2, 1], [5, 6, 6, 7, 7, 7, 7, 7]
    assert distance_buckets(relative, True).tolist() == [*behind, 0, *ahead]


def test_buckets_of_what_is_behind_by_hand() -> None:
    """Distances 0 to 3 have their own of 8 buckets; the others begin at 4 * 4 ** (k / 4): at 4, 6, 8 and 12."""
    relative = RelativeConfig(buckets=8, max_distance=16)
    behind = [*[7] * 5, 6, 6, 6, 6, 5, 5, 4, 4, 3, 2, 1]
    assert distance_buckets(relative, False).tolist() == [*behind, *[0] * 17]


def test_a_bias_is_looked_up_by_distance(assert_close: Compare) -> None:
    bias = RelativeBias(RelativeConfig(buckets=8, max_distance=8), 2, True)
    bias.weight.copy_(torch.arange(16.0).view(8, 2))
    found = bias(torch.tensor([[5], [0]]), torch.tensor([[5, 4, 90], [1, 0, -3]]))
    assert found.shape == (2, 2, 1, 3)
    assert_close(found[:, :, 0], torch.tensor([[[0, 2, 14], [1, 3, 15]], [[10, 0, 4], [11, 1, 5]]]).float())


def network(scale_outputs: bool = False) -> Transformer:
    stack = StackConfig(n_layers=2, d_model=16, n_heads=2, d_ff=24, norm_place="pre", norm="rms", attention_scale=1.0)
    config = ModelConfig(
        vocab_size=30,
        max_positions=64,
        pad_id=0,
        start_id=0,
        end_id=1,
        encoder=stack,
        decoder=stack,
        positions="relative",
        relative=RelativeConfig(buckets=8, max_distance=20),
        scale_embeddings=False,
        scale_outputs=scale_outputs,
        output_bias=False,
    )
    model = Transformer(config).eval()
    for parameter in model.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return model


@pytest.mark.parametrize("padding", [1, 7])
def test_padding_moves_nothing(padding: int, assert_close: Compare) -> None:
    """On either side of a text, an encoder reads it as without."""
    model, ids = network(), torch.tensor([[5, 9, 3, 22, 8, 7]])
    nothing, before = torch.zeros(1, padding, dtype=torch.int64), torch.zeros(1, padding, dtype=torch.bool)
    mask = torch.ones_like(ids, dtype=torch.bool)
    alone = model.encode(ids, mask)
    assert_close(model.encode(torch.cat([nothing, ids], 1), torch.cat([before, mask], 1))[:, padding:], alone)
    assert_close(model.encode(torch.cat([ids, nothing], 1), torch.cat([mask, before], 1))[:, :6], alone)


@pytest.mark.parametrize("padding", [1, 4])
def test_a_cache_with_holes_is_read_as_one_without(padding: int, assert_close: Compare) -> None:
    """As where a text joins a run: between its tokens lies padding, and positions count tokens."""
    model, ids = network(), torch.tensor([[5, 9, 3, 22, 8, 7]])
    mask, before = torch.ones_like(ids, dtype=torch.bool), torch.zeros(1, padding, dtype=torch.bool)
    cross = model.cross_key_value(model.encode(ids, mask))
    expected, _ = model.decode(ids, torch.arange(6)[None], mask, cross=cross, cross_mask=mask)
    _, past = model.decode(ids[:, :4], torch.arange(4)[None], mask[:, :4], cross=cross, cross_mask=mask)
    holed = [(torch.cat([k, k[:, :, :padding]], 2), torch.cat([v, v[:, :, :padding]], 2)) for k, v in past]
    key_mask = torch.cat([mask[:, :4], before, mask[:, :2]], 1)
    found, _ = model.decode(ids[:, 4:], torch.tensor([[4, 5]]), key_mask, holed, cross, mask)
    assert_close(found, expected[:, 4:])


def test_outputs_are_scaled(assert_close: Compare) -> None:
    hidden = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    assert_close(network(scale_outputs=True).logits(hidden), network().logits(hidden) / 4)
