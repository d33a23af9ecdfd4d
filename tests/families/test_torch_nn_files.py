"""What describes a ``torch.nn.Transformer`` and the files beside it are read strictly, as untrusted input."""

from __future__ import annotations

import pickle  # noqa: TID251 what a stranger's file may hold
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint
from edgewise.models.pickled import read_pickled

from .torch_folders import description, torch_folder, wrapped, write

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
CASE: dict[str, Any] = {"kind": "decoder", "positions": "stored"}


def change(**changes: Any) -> dict[str, Any]:
    """The description with values put in; ``table__name`` is in a table, ``None`` takes it out."""
    data = {**description(CASE), "weights": "model.safetensors"}
    for place, value in changes.items():
        table, _, name = place.rpartition("__")
        holder = data[table] if table else data
        holder.update({name: value}) if value is not None else holder.pop(name)
    return data


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_both_kinds_of_file_say_the_same(suffix: str, tmp_path: Path) -> None:
    torch_folder(tmp_path, CASE, suffix="safetensors")
    (tmp_path / "LICENSE").write_text("for tests\n")
    found = open_checkpoint(write(tmp_path, change(), suffix))
    assert found.notice == "for tests\n"
    assert found.max_context == 48
    assert torch.equal(found.model.positions, load_file(tmp_path / "model.safetensors")["pe"][:48, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": None}, "weights is missing"),
        ({"weights": "../model.pt"}, "weights is '../model.pt', expected the plain name of a .pt or .safetensors file"),
        ({"kind": "both"}, "kind is 'both', expected 'encoder-decoder' or 'decoder' or 'encoder'"),
        ({"arguments__nhead": None, "text__pad_id": None}, "arguments.nhead is missing; text.pad_id is missing"),
        ({"arguments__activation": "silu"}, "arguments.activation is 'silu', expected 'relu' or 'gelu'"),
        ({"arguments__nhead": 5}, r"d_model \(32\) must be a multiple of n_heads \(5\)"),
        ({"arguments__heads": 4}, r"arguments.heads \(4\) is not understood"),
        ({"text__max_positions": None}, "text.max_positions is missing: most tokens of a text"),
        ({"text__starts_source": True}, "starts_source belongs to an encoder-decoder, not to kind 'decoder'"),
        ({"names__output": None}, "names.output is missing"),
        ({"names__dropped": [3]}, r"names.dropped is \[3\], expected names of tensors"),
        ({"names__embedding": "tokens.{i}"}, "names: 'tokens.{i}' becomes 'embedding', expected {i} once in both"),
        ({"kind": "encoder", "names__encoder": "stack", "text__mask_id": None}, "text.mask_id is missing: an encoder"),
    ],
)
def test_a_description_that_is_wrong(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch_folder(tmp_path, CASE, suffix="safetensors")
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(write(tmp_path, change(**changes)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("network.toml", "kind = ", "expected a readable TOML file, got"),
        ("network.json", "[" * 100_000, "expected a readable JSON file, got"),
        ("network.json", "[]", "expected an object, got list"),
        ("network.json", " " * (1 << 20) + "{}", "expected a readable JSON file, got more than 1048576 bytes"),
        ("network.toml", "\ud800", "expected a readable TOML file, got 'utf-8' codec"),
    ],
)
def test_a_description_that_is_none(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda t: t.update(more=torch.zeros(2)), "unexpected more"),
        (lambda t: t.pop("stack.layers.1.norm2.bias"), "missing decoder.layers.1.feed_forward_residual.norm.bias"),
        (lambda t: t.update(pe=torch.zeros(3, 3, 32)), r"positions has shape \(3, 3, 32\), expected \(48, 32\)"),
        (lambda t: t.update(pe=torch.zeros(40, 32)), r"positions has shape \(40, 32\), expected \(48, 32\)"),
        (
            lambda t: t.update({"stack.layers.0.self_attn.in_proj_weight": torch.zeros(95, 32)}),
            r"in_proj_weight has shape \(95, 32\), expected 3 equal parts",
        ),
    ],
)
def test_tensors_that_do_not_fit(alter: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path) -> None:
    file = torch_folder(tmp_path, CASE, suffix="safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    alter(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(file)


def test_a_tensor_may_be_dropped_and_a_tied_matrix_must_be_tied(tmp_path: Path) -> None:
    torch_folder(tmp_path, CASE, suffix="safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "a+b": torch.zeros(2)}, tmp_path / "model.safetensors")
    open_checkpoint(write(tmp_path, change(names__dropped=["a+b"])))
    with pytest.raises(CheckpointError, match=r"a copy of embedding.weight differs from it"):
        open_checkpoint(write(tmp_path, change(names__dropped=["a+b"], text__tied=True)))


def test_a_pickle_gives_what_was_saved(tmp_path: Path) -> None:
    expected = wrapped(CASE).state_dict()
    torch.save({"epoch": 1, "state": expected}, tmp_path / "a.pt")
    torch.save(expected, tmp_path / "b.pt")
    for found in (read_pickled(tmp_path / "a.pt", "state"), read_pickled(tmp_path / "b.pt")):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


class Call:
    """Unpickled by anything but a restricted reader, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": Call(tmp_path / "it ran")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="nothing but tensors, got UnpicklingError: Weights only load failed"):
        read_pickled(tmp_path / "a.pt")
    torch.save(wrapped(CASE), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"Save model.state_dict\(\), best as safetensors"):
        read_pickled(tmp_path / "whole.pt")
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("data", "state", "message"),
    [
        (
            {"epoch": 3, "weights": {}},
            "",
            "'epoch' is int, expected a dense tensor; if the state dictionary lies under",
        ),
        ({"epoch": 3}, "model", "expected a state dictionary under 'model', got a dictionary of 'epoch'"),
        ([torch.zeros(2)], "", "expected a state dictionary, got <class 'list'>"),
        ({3: torch.zeros(2)}, "", "expected a state dictionary, got a dictionary of 3"),
        ({}, "", "expected a state dictionary, got a dictionary of "),
        ({"a": torch.zeros(2, 2).to_sparse()}, "", "'a' is a torch.sparse_coo tensor, expected a dense tensor"),
    ],
)
def test_a_pickle_of_something_else(data: Any, state: str, message: str, tmp_path: Path) -> None:
    torch.save(data, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        read_pickled(tmp_path / "a.pt", state)


def test_files_that_are_no_archives_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}))
    for name in ("old.pt", "gone.pt"):
        with pytest.raises(CheckpointError, match=r"expected what torch.save writes since PyTorch 1.6, a zip archive"):
            read_pickled(tmp_path / name)
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match=r"in it is compressed, which torch.save never does"):
        read_pickled(tmp_path / "packed.pt")


@pytest.mark.slow
def test_a_damaged_archive_is_refused_or_still_holds_tensors(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(40), "b": torch.ones(3, 3)}, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    refused = 0
    for place in range(0, len(data), 7):
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]):
            (tmp_path / "b.pt").write_bytes(damaged)
            try:
                found = read_pickled(tmp_path / "b.pt")
            except CheckpointError:
                refused += 1
            else:
                assert all(tensor.numel() < 1000 for tensor in found.values())
    assert refused > len(data) // 7
