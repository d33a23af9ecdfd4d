"""Windows, rotary positions and bare first layers of an encoder, against what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgewise.errors import ConfigError
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.layers import both_ways_mask
from edgewise.models.position_config import RopeConfig
from edgewise.models.transformer import Transformer

pytestmark = pytest.mark.usefixtures("no_gradients")
Compare = Callable[..., None]
STACK: dict[str, Any] = {"n_layers": 3, "d_model": 16, "n_heads": 4, "d_ff": 24}
PRE: dict[str, Any] = {**STACK, "norm_place": "pre"}
IDS: dict[str, Any] = {"vocab_size": 29, "max_positions": 40, "pad_id": 0, "start_id": 1, "end_id": 2}
TURNED: dict[str, Any] = {"positions": "rotary", "rope": RopeConfig(theta=50.0)}


def network(**stack: Any) -> Transformer:
    encoder = StackConfig(**{**PRE, **stack})
    near = {"window_rope": RopeConfig(theta=5.0)} if encoder.window else {}
    words = {"head_transform": "silu", "transform_bias": False, "embedding_norm": True}
    model = Transformer(ModelConfig(**IDS, **TURNED, **near, **words, encoder=encoder)).double().eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.normal_(std=0.5, generator=generator)
    return model


def states(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    return model.encode(ids, torch.ones_like(ids, dtype=torch.bool))


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_a_query_sees_real_keys_on_both_sides(window: int) -> None:
    lengths = (8, 1, 5)
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    found = both_ways_mask(mask, window)
    assert found.shape == (3, 1, 8, 8)
    for row, length in enumerate(lengths):
        for query in range(8):
            seen = [key for key in range(length) if abs(key - query) < window]
            assert found[row, 0, query].nonzero().flatten().tolist() == seen


def test_nothing_beyond_the_windows_of_all_layers_is_read() -> None:
    """Three layers with a window of 3 reach 6 tokens either way, and no further; one layer without reaches all."""
    ids = torch.randint(3, 29, (1, 17), generator=torch.Generator().manual_seed(1))
    for layers, reach in ((None, 6), ((0, 2), 17)):
        model, changed = network(window=3, windowed_layers=layers), []
        for place in range(17):
            other = ids.clone()
            other[0, place] = 3 + (ids[0, place] - 2) % 26
            changed.append(not torch.equal(states(model, ids)[0, 8], states(model, other)[0, 8]))
        assert changed == [abs(place - 8) <= reach for place in range(17)]


def test_padding_far_beyond_a_window_gives_numbers_that_nobody_reads(assert_close: Compare) -> None:
    model = network(window=2)
    ids = torch.randint(3, 29, (2, 30), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(30) < torch.tensor([[30], [3]])
    found = model.encode(ids, mask)
    assert found.isfinite().all()
    assert_close(found[1, :3], states(model, ids[1:, :3])[0])


def test_where_a_text_stands_does_not_matter_to_rotary_positions(assert_close: Compare) -> None:
    """Scores depend on distances alone: the middle of a long text is the same wherever windows let it be."""
    model = network(window=2)
    ids = torch.randint(3, 29, (1, 30), generator=torch.Generator().manual_seed(1))
    moved = states(model, ids[:, 5:])[0, 5:15]
    assert_close(states(model, ids)[0, 10:20], moved, atol=1e-6)  # tables of angles are float32


def test_layers_turn_by_the_positions_that_are_theirs() -> None:
    model = network(window=4, windowed_layers=(1,))
    stack = model.config.encoder
    assert stack is not None
    assert [model._rotary_of(layer, stack) for layer in range(3)] == [model.rotary, model.window_rotary, model.rotary]
    assert model.window_rotary is not model.rotary


def test_the_first_attention_may_read_what_is_not_normalized_again(assert_close: Compare) -> None:
    model = network(first_norm=False, n_layers=1, norm_bias=False)
    encoder: Any = model.encoder
    layer, ids = encoder.layers[0], torch.tensor([[5, 9, 4]])
    mask, places = torch.ones_like(ids, dtype=torch.bool), torch.arange(3)[None]
    x = model.embed(ids, places)

    def turn(heads: torch.Tensor) -> torch.Tensor:
        assert model.rotary is not None
        return model.rotary(heads, places)

    x = x + layer.attention(x, layer.attention.key_value(x, turn), mask[:, None, None], turn)
    x = x + layer.feed_forward(layer.feed_forward_residual.norm(x))
    assert_close(states(model, ids), encoder.final_norm(x))


def test_norms_without_a_shift(assert_close: Compare) -> None:
    model = network(norm_bias=False)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 3 * 2 + 3  # and of embeddings, of the last layer, and before words
    assert all(norm.bias is None for norm in norms)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).double()
    centred = x - x.mean(1, keepdim=True)
    assert_close(norms[0](x), centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt() * norms[0].weight)


@pytest.mark.parametrize("head", ["classes", "tags", "span"])
def test_a_transform_before_other_heads(head: str, assert_close: Compare) -> None:
    own = {"span": {"pair_between": (2,)}}.get(head, {"class_names": ("a", "b", "c")})
    config = ModelConfig(**IDS, **own, head=head, head_transform="silu", encoder=StackConfig(**PRE))  # type: ignore[arg-type]
    model: Any = Transformer(config).double().eval()
    hidden = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.ones(2, 5, dtype=torch.bool)
    read = hidden.mean(1) if head == "classes" else hidden
    scores = model.classifier(model.transform_norm(nn.functional.silu(model.transform(read))))
    assert_close(model.classify(hidden, mask) if head == "classes" else model.tag(hidden), scores)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ({"norm_bias": False, "norm": "rms"}, "norm_bias is for norm 'layer': the other never has one"),
        ({"first_norm": False, "norm_place": "post"}, "first_norm can be left out with norm_place 'pre' alone"),
    ],
)
def test_a_stack_refuses(stack: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StackConfig(**{**PRE, **stack})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": StackConfig(**PRE)}, "rotary positions are for an encoder or a decoder alone, not enc"),
        ({"encoder": StackConfig(**PRE, unturned_layers=(1,))}, "unturned_layers belong to rotary positions of"),
        ({"window_rope": RopeConfig()}, "window_rope belongs to a stack with rotary positions and a window"),
        ({"rope": None}, r"rope \(None\) belongs to rotary positions, and they to it"),
        (
            {"encoder": None, "decoder": StackConfig(**PRE, first_norm=False)},
            "first_norm can be left out of an encoder, not a decoder",
        ),
        ({"transform_bias": False}, "transform_bias belongs to a head_transform"),
        (
            {"head": "classes", "class_names": ("a", "b"), "pooler": "tanh", "head_transform": "gelu"},
            "a pooler and a head_transform exclude each other",
        ),
        (
            {"head": "embedding", "pooling": "mean", "head_transform": "gelu"},
            "head_transform belongs to an encoder alone whose head gives no vectors",
        ),
    ],
)
def test_a_network_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**{**IDS, **TURNED, "encoder": StackConfig(**PRE), **change})


def test_json_gives_back_the_same_configuration() -> None:
    config = network(window=4, windowed_layers=(1,), first_norm=False, norm_bias=False).config
    assert ModelConfig.from_json(config.to_json()) == config
