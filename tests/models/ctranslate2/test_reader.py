"""``model.bin`` is untrusted: whatever is wrong in it is a typed error, and memory stays within the file's size."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.ctranslate2.network import network_of
from edgewise.models.ctranslate2.reader import read_model_bin
from edgewise.models.ctranslate2.variables import Variables
from edgewise.models.open import open_checkpoint

from .folders import generator_folder, translator_folder

ROTARY = ("rotary_dim", "rotary_interleave", "rotary_base")
TEXT = {"pad_id": 0, "start_id": 1, "end_id": 0, "max_positions": 64}


def text(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode("latin-1") + b"\0"


def variable(name: str, shape: tuple[int, ...] = (2,), kind: int = 0, size: int = 8, data: bytes = bytes(8)) -> bytes:
    dims = struct.pack(f"<{len(shape)}I", *shape)
    return text(name) + struct.pack("<B", len(shape)) + dims + struct.pack("<BI", kind, size) + data


def binary(*variables: bytes, version: int = 6, count: int | None = None, aliases: tuple[str, ...] = ()) -> bytes:
    head = struct.pack("<I", version) + text("TransformerSpec") + struct.pack("<I", 7)
    pairs = b"".join(text(name) for name in aliases)
    number = len(variables) if count is None else count
    return head + struct.pack("<I", number) + b"".join(variables) + struct.pack("<I", len(aliases) // 2) + pairs


def read(folder: Path, data: bytes) -> Any:
    (folder / "model.bin").write_bytes(data)
    return read_model_bin(folder / "model.bin")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = binary(
        variable("x", (), 1, 1, b"\x05"),
        variable("a/w", (2, 3), 0, 24, numbers.tobytes()),  # after one byte: not aligned
        variable("a/w_scale", (1,), 4, 2, np.float16(2).tobytes()),
        aliases=("b/w", "a/w"),
    )
    found = read(tmp_path, data)
    assert (found.spec, found.revision) == ("TransformerSpec", 7)
    assert found.variables.keys() == {"x", "a/w", "a/w_scale", "b/w", "b/w_scale"}
    assert torch.equal(found.variables["b/w"], torch.from_numpy(numbers))
    assert int(found.variables["x"]) == 5
    assert float(found.variables["b/w_scale"]) == 2.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a model.bin of CTranslate2, got"),
        (b"PK", "ends at byte 2, where 4 more are expected from byte 0"),
        (binary(version=3), "has binary version 3, expected 5 or 6: convert it again"),
        (binary(version=7), "has binary version 7"),
        (binary(count=4_000_000_000), "says that it has 4000000000 variables"),
        (binary(variable("a"), variable("a")), "has 'a' twice"),
        (binary(variable("a", (1,) * 5)), "'a' has 5 dimensions, expected at most 4"),
        (binary(variable("a", kind=6)), "'a' has type 6, expected one below 6"),
        (binary(variable("a", (2**32 - 1,) * 4)), "'a' has shape .* in 8 bytes"),
        (binary(variable("a", (0, 3), size=0, data=b"")), r"'a' has shape \(0, 3\) of torch.float32 in 0 bytes"),
        (binary(variable("a", (2**30,), size=2**32 - 1)), "has shape .* in 4294967295 bytes"),
        (binary(variable("a", (2**29,), size=2**31)), "where 2147483648 more are expected"),
        (binary(variable("a" * 600)), "has a name of 601 bytes at byte .*, expected 1 to 512"),
        (binary(variable("\xff")), "has a name that is no plain text"),
        (binary(variable("a\n")), "has a name that is no plain text"),
        (binary(variable("a"), aliases=("b", "c")), "has 'b' as an alias of 'c', expected a new name of a variable"),
        (binary(variable("a"), aliases=("a", "a")), "has 'a' as an alias of 'a'"),
        (binary(variable("a")) + b"x", "has 1 bytes after its end"),
    ],
)
def test_damage_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, data)
    with pytest.raises(CheckpointError, match=r"expected a model.bin of CTranslate2, got"):
        read_model_bin(tmp_path / "gone.bin")


@pytest.mark.parametrize(
    ("spec", "revision"), [("WhisperSpec", 2), ("TransformerSpec", 6), ("TransformerSpec", 8), ("", 1)]
)
def test_other_specifications_are_refused_by_name(spec: str, revision: int, tmp_path: Path) -> None:
    found = read(tmp_path, binary(variable("a")))
    other = type(found)(spec=spec, revision=revision, variables=found.variables)
    with pytest.raises(
        CheckpointError, match=f"specification '{spec}' revision {revision} is not read, expected Trans"
    ):
        network_of(other, {}, TEXT)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (generator_folder, {"decoder/alibi": torch.tensor(1)}, "decoder/alibi is 1, expected 0"),
        (generator_folder, {"decoder/num_heads": torch.tensor(0)}, "decoder/num_heads is 0, expected a count"),
        (generator_folder, {"decoder/num_heads": torch.tensor(torch.nan)}, "num_heads is no single number"),
        (generator_folder, {"decoder/activation": torch.tensor(6)}, r"activation is 6, expected one of \[0, 1, 2, 3\]"),
        (generator_folder, {"decoder/new": torch.zeros(2)}, "decoder/new is not understood"),
        (generator_folder, {"decoder/embeddings/weight": None}, "decoder/embeddings/weight is missing"),
        (generator_folder, {"decoder/projection/weight": torch.tensor(1.0)}, "projection/weight is a scalar"),
        (generator_folder, {"decoder/position_encodings/encodings": None}, "there is no table of positions"),
        (
            generator_folder,
            {"decoder/layer_1/ffn/linear_1/weight": torch.zeros(32, 48, dtype=torch.int8)},
            "linear_1/weight is torch.int8, without a scale",
        ),
        (
            generator_folder,
            {"decoder/layer_0/self_attention/linear_0/weight": torch.zeros(95, 32)},
            "linear_0 has a shape that cannot be cut into 3",
        ),
        (translator_folder, {"decoder/scale_embeddings": torch.tensor(2.0)}, r"scale_embeddings is \[2.0, 5.6"),
        (
            translator_folder,
            {"encoder/position_encodings/encodings": torch.zeros(9, 32)},
            "positions of their own, expected one table for both",
        ),
        (translator_folder, {"encoder/embeddings_merge": torch.tensor(1)}, "embeddings_merge is 1, expected 0"),
        (
            translator_folder,
            {"decoder/start_from_zero_embedding": torch.tensor(1)},
            "start_from_zero_embedding is 1, expected 0",
        ),
    ],
)
def test_variables_that_do_not_fit(make: Any, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    found = read_model_bin(make(tmp_path / "tiny") / "model.bin")
    found.variables.update(changes)
    for name in [name for name, value in changes.items() if value is None]:
        del found.variables[name]
    with pytest.raises(CheckpointError, match=message):
        network_of(found, {}, TEXT)


@pytest.mark.parametrize(
    ("layer", "changes", "message"),
    [
        (0, {"rotary_dim": torch.tensor(4)}, r"rotary_dim is not the whole head \(8\)"),
        (0, {"rotary_interleave": torch.tensor(1)}, "rotary_interleave is not 0"),
        (0, {"rotary_interleave": None}, "rotary_interleave is not 0"),
        (0, {"rotary_base": torch.tensor(5e5)}, "layer_1/.*/rotary_base is 50.0, in the first layer 500000.0"),
        (1, {"rotary_base": torch.tensor(5e5)}, "layer_1/.*/rotary_base is 500000.0, in the first layer 50.0"),
        (0, dict.fromkeys(ROTARY), "layer_1/.*/rotary_base is 50.0, in the first layer None"),
        (1, dict.fromkeys(ROTARY), "layer_1/.*/rotary_base is None, in the first layer 50.0"),
        (1, {"rotary_dim": None}, "layer_1/.*/rotary_base is not understood"),
    ],
)
def test_rotary_positions_of_another_kind(layer: int, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    found = read_model_bin(generator_folder(tmp_path / "tiny", rotary=True) / "model.bin")
    changed = {f"decoder/layer_{layer}/self_attention/{name}": value for name, value in changes.items()}
    variables = {name: value for name, value in (found.variables | changed).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        network_of(type(found)(spec=found.spec, revision=found.revision, variables=variables), {}, TEXT)


def test_integers_are_divided_by_their_scales() -> None:
    """By hand: 64 of a row whose largest weight is 0.5 is 64 / (127 / 0.5)."""
    v = Variables(
        {"w": torch.tensor([[64, 127], [-127, 0]], dtype=torch.int8), "w_scale": torch.tensor([254.0, 127.0])}
    )
    torch.testing.assert_close(v.weight("w"), torch.tensor([[64 / 254, 0.5], [-1.0, 0.0]]))
    for scale in (torch.tensor([1.0, 0.0]), torch.tensor([1.0, torch.nan]), torch.ones(3)):
        v = Variables({"w": torch.ones(2, 2, dtype=torch.int8), "w_scale": scale})
        v.weight("w")
        assert "w_scale has shape" in v.faults[0]
    v = Variables({"w": torch.ones(2, 2), "w_scale": torch.ones(2)})
    v.weight("w")
    assert v.faults == ["w is torch.float32, with a scale"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return translator_folder(tmp_path_factory.mktemp("fuzz") / "tiny", quantization="int8")


@pytest.mark.slow
def test_every_truncation_is_refused(whole: Path, tmp_path: Path) -> None:
    data = (whole / "model.bin").read_bytes()
    for end in [*range(0, 3000, 13), *range(3000, len(data), 997)]:
        with pytest.raises(CheckpointError):
            read(tmp_path, data[:end])


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), values=st.binary(min_size=1, max_size=6), early=st.booleans())
def test_damaged_bytes_never_cost_more_than_the_file(place: float, values: bytes, early: bool, whole: Path) -> None:
    data = bytearray((whole / "model.bin").read_bytes())
    start = int(place * (400 if early else len(data) - len(values)))
    data[start : start + len(values)] = values
    target = whole.parent / "damaged"
    target.mkdir(exist_ok=True)
    tracemalloc.start()
    try:
        found = read(target, bytes(data))
        network_of(found, {}, TEXT)
    except (CheckpointError, ConfigError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * len(data) + (1 << 20)


def test_a_folder_without_its_parts(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes((whole / "model.bin").read_bytes())
    with pytest.raises(CheckpointError, match=r"config.json: expected a readable JSON file"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config.json: expected an object, got list"):
        open_checkpoint(tmp_path)
