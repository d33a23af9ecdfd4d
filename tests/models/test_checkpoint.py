"""Checkpoint folders: what is saved is loaded, every fault of the weights is in one message, pickles are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models import checkpoint
from edgewise.models.checkpoint import CONFIG, NOTICE, TRAINING, WEIGHTS, load_checkpoint, save_weights
from edgewise.models.transformer import Transformer


@pytest.fixture
def folder(tmp_path: Path, network: Callable[..., Transformer]) -> Path:
    save_weights(network("encoder-decoder").float(), tmp_path)
    (tmp_path / TRAINING).write_text('{"recipe": "tiny"}')
    return tmp_path


def _change(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_what_was_saved_is_loaded(folder: Path, network: Callable[..., Transformer]) -> None:
    saved, loaded = network("encoder-decoder").float(), load_checkpoint(folder)
    assert loaded.model.config == saved.config
    assert loaded.training == {"recipe": "tiny"}
    assert not loaded.model.training
    for name, tensor in saved.state_dict().items():
        got = loaded.model.state_dict()[name]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, tensor.half().float(), rtol=0, atol=0)


def test_notice_and_hash(folder: Path) -> None:
    assert load_checkpoint(folder).notice == ""
    (folder / NOTICE).write_text("for research\n")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.notice == "for research\n"
    assert checkpoint.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def test_every_fault_is_in_one_message(folder: Path) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        del tensors["vocabulary_bias"]
        tensors["extra"] = torch.zeros(2)
        tensors["embedding.weight"] = torch.zeros(3, 4)
        tensors["encoder.layers.0.feed_forward.inner.bias"][1] = torch.nan
        tensors["encoder.layers.1.feed_forward.inner.bias"][0] = torch.inf
        tensors["decoder.layers.0.attention.query.bias"] = torch.zeros(16, dtype=torch.int8)
        tensors["decoder.layers.0.attention.key.bias"] = torch.zeros(16, dtype=torch.float8_e4m3fn)
        tensors["decoder.layers.0.attention.value.bias"] = torch.full((16,), 1e300, dtype=torch.float64)

    _change(folder, damage)
    with pytest.raises(CheckpointError, match="does not fit its config") as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    for part in (
        "missing vocabulary_bias",
        "unexpected extra",
        "embedding.weight has shape (3, 4), expected (23, 16)",
        "encoder.layers.0.feed_forward.inner.bias holds NaN or infinity",
        "encoder.layers.1.feed_forward.inner.bias holds NaN or infinity",
        "decoder.layers.0.attention.query.bias has dtype torch.int8, expected one of torch.float16, torch.bfloat16, ",
        "decoder.layers.0.attention.key.bias has dtype torch.float8_e4m3fn, expected one of",
        "decoder.layers.0.attention.value.bias holds NaN or infinity, in float32",
    ):
        assert part in message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_precision_becomes_float32(folder: Path, dtype: torch.dtype) -> None:
    expected = load_checkpoint(folder).model.state_dict()
    _change(folder, lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))
    for name, tensor in load_checkpoint(folder).model.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name].to(dtype).float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stack", "field", "size", "shape"),
    [
        (None, "vocab_size", 2**24, r"embedding.weight has shape \(23, 16\), expected \(16777216, 16\)"),
        ("encoder", "d_ff", 2**20, r"inner.weight has shape \(24, 16\), expected \(1048576, 16\)"),
        ("decoder", "n_layers", 256, r"missing decoder.layers.255.attention.key.bias"),
    ],
)
def test_no_memory_is_taken_before_the_shapes_fit(
    stack: str | None, field: str, size: int, shape: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    build = checkpoint.Transformer
    monkeypatch.setattr(
        checkpoint, "Transformer", lambda config: made.append(str(torch.empty(0).device)) or build(config)
    )
    data = json.loads((folder / CONFIG).read_text())
    (data if stack is None else data[stack])[field] = size
    (folder / CONFIG).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=shape):
        load_checkpoint(folder)
    assert made == ["meta"]


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "pickle"])
def test_a_pickle_is_refused(folder: Path, archive: bool) -> None:
    torch.save({"embedding.weight": torch.zeros(2)}, folder / WEIGHTS, _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match="expected safetensors, got a pickle, which can run code: convert it"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b'{"a": 1}'])
def test_a_damaged_file_of_weights(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a safetensors file, got"):
        load_checkpoint(folder)


def test_a_truncated_file_of_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="expected a safetensors file, got"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TRAINING])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: expected a .* file, got .*train or copy it again"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000], ids=["empty", "open", "deep"])
def test_a_damaged_configuration(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match="expected a readable JSON file"):
        load_checkpoint(folder)


def test_a_configuration_that_contradicts_itself(folder: Path) -> None:
    data = json.loads((folder / CONFIG).read_text())
    data["encoder"]["n_heads"] = 5
    (folder / CONFIG).write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="must be a multiple of n_heads"):
        load_checkpoint(folder)
