"""The rows that a network's matrices read, beside the layers asked one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgewise.export import activations
from edgewise.export.activations import MOST_ROWS, record_inputs
from edgewise.export.portable import portable_graphs
from edgewise.models.checkpoint import load_checkpoint
from edgewise.models.transformer import Transformer
from edgewise.quantize.graph import matrices
from edgewise.runtime.bundle.cases import Case

from ..tiny_checkpoint import write_checkpoint


@pytest.fixture(params=["translate", "generate", "fill_mask", "classify"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Transformer:
    return load_checkpoint(write_checkpoint(tmp_path / "tiny", request.param, max_positions=96)).model


def case(*ids: int) -> Case:
    return Case(name="one", text=None, input_ids=ids)


def test_every_matrix_of_the_graphs_is_recorded_and_the_network_is_as_before(model: Transformer) -> None:
    named = {name: weight for graph in portable_graphs(model).values() for _, name, weight in matrices(graph)}
    found = record_inputs(model, [case(5, 6, 7, 2)])
    assert named.keys() <= found.keys()
    assert all(found[name].shape[1] == weight.shape[1] for name, weight in named.items())
    assert "logits" not in vars(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_first_matrix_reads_the_embedding(tmp_path: Path) -> None:
    model = load_checkpoint(write_checkpoint(tmp_path / "tiny", "generate", max_positions=96)).model
    found = record_inputs(model, [case(1, 9), case(1, 9, 4)])
    ids = torch.tensor([[1, 9, 4]])
    read = model.embed(ids, torch.arange(3)[None])[0].detach().numpy()
    np.testing.assert_allclose(found["decoder.layers.0.attention.query"], read[[0, 1, 0, 1, 2]], rtol=0, atol=1e-6)


def test_no_more_rows_than_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_checkpoint(write_checkpoint(tmp_path / "tiny", "generate", max_positions=96)).model
    asked: list[Case] = []
    answer = activations._answer
    monkeypatch.setattr(activations, "_answer", lambda model, case: (asked.append(case), answer(model, case)))
    found = record_inputs(model, [case(*[5] * 90)] * 9)
    assert {len(rows) for rows in found.values()} == {MOST_ROWS}
    assert len(asked) == 3
