"""Means of states by one product a text: the portable numbers, and no difference that other texts make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgewise.export.passes.patterns import finish
from edgewise.export.passes.pooled_means import sum_by_product
from edgewise.export.portable import portable_graphs
from edgewise.export.variants import variant_graphs
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.transformer import Transformer

from .conftest import compute, decoder_sizes, random_inputs

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
HEADS: dict[str, dict[str, Any]] = {
    "vectors": {"head": "embedding", "pooling": "mean"},
    "vectors of length 1": {"head": "embedding", "pooling": "mean", "normalize": True},
    "classes": {"head": "classes", "class_names": ("bad", "fair", "good")},
}
FIRST: dict[str, Any] = {"head": "embedding", "pooling": "first"}


def portable(head: dict[str, Any]) -> ir.Model:
    ids: dict[str, Any] = {"vocab_size": 29, "max_positions": 80, "pad_id": 0, "start_id": 1, "end_id": 2}
    model = Transformer(ModelConfig(**ids, **head, encoder=StackConfig(n_layers=1, d_model=16, n_heads=2, d_ff=24)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    return portable_graphs(model)["encoder"]


@cache
def pooled(head: str) -> ir.Model:
    return portable(HEADS[head])


@pytest.mark.parametrize("head", HEADS)
def test_same_numbers(head: str, assert_close: Compare) -> None:
    model = pooled(head)
    changed = finish(sum_by_product(model.clone()), 23)
    before, after = (Counter(node.op_type for node in m.graph) for m in (model, changed))
    assert (before["ReduceSum"], after["ReduceSum"]) == (2, 1)  # of states, and of how many there are
    inputs = random_inputs(model, decoder_sizes(3, 1, 1, 0, 9))
    expected, actual = compute(model, inputs), compute(changed, inputs)
    for name, value in expected.items():
        assert_close(actual[name], value)


def test_the_first_state_stays_as_it_is() -> None:
    model = portable(FIRST)
    count = len(model.graph)
    assert len(sum_by_product(model).graph) == count


@pytest.mark.parametrize("source", [7, 16, 48])
@pytest.mark.parametrize("head", HEADS)
def test_a_text_alone_and_beside_others(head: str, source: int) -> None:
    """To the bit, at equal lengths, in the graph that ONNX Runtime gets."""
    model = variant_graphs({"encoder": pooled(head)}, "cpu")["encoder"]
    inputs = random_inputs(model, decoder_sizes(5, 1, 1, 0, source))
    inputs["ids"] = np.random.default_rng(source).integers(3, 29, (5, source))
    inputs["mask"][:] = True
    together = compute(model, inputs)
    for i in range(5):
        alone = compute(model, {name: value[i : i + 1] for name, value in inputs.items()})
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], together[name][i])
