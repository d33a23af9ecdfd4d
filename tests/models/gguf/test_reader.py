"""The GGUF reader: the format's own library wrote what it reads; hostile and damaged files end in one typed error."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgewise.errors import CheckpointError
from edgewise.models.gguf import reader
from edgewise.models.gguf.layout import SCALARS
from edgewise.models.gguf.reader import GgufFile, open_gguf

from . import gguf_bytes as raw

VALUES: dict[str, tuple[int, Any]] = {
    "u8": (raw.U8, 200),
    "i8": (raw.I8, -100),
    "u16": (raw.U16, 60_000),
    "i16": (raw.I16, -30_000),
    "u32": (raw.U32, 4_000_000_000),
    "i32": (raw.I32, -2_000_000_000),
    "f32": (raw.F32, 0.25),
    "bool": (raw.BOOL, True),
    "text": (raw.STRING, "Straße 東京 😀"),
    "empty": (raw.STRING, ""),
    "u64": (raw.U64, 2**64 - 1),
    "i64": (raw.I64, -(2**63)),
    "f64": (raw.F64, 1e-300),
    "numbers": (raw.ARRAY, (raw.I32, [-1, 2, 3])),
    "booleans": (raw.ARRAY, (raw.BOOL, [True, False])),
    "texts": (raw.ARRAY, (raw.STRING, ["a", "", "ü"])),
    "nothing": (raw.ARRAY, (raw.STRING, [])),
    "nested": (raw.ARRAY, (raw.ARRAY, [(raw.U8, [1, 2]), (raw.ARRAY, [(raw.STRING, ["x"])])])),
}


def opened(path: Path, data: bytes) -> GgufFile:
    path.write_bytes(data)
    return open_gguf(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def sample() -> bytes:
    """Every value type, and three tensors: two of float32, one quantized."""
    data = np.arange(8, dtype="<f4").tobytes() + bytes(34) + bytes(30) + np.float32(7).tobytes()
    infos = [
        raw.tensor_info("matrix", [4, 2], 0, 0),
        raw.tensor_info("blocks", [32, 1], 8, 32),
        raw.tensor_info("scalar", [1], 0, 96),
    ]
    return raw.file([raw.pair(key, *item) for key, item in VALUES.items()], infos, data)


# What is read


def as_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [as_plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("version", [2, 3])
def test_every_value_type(file: Path, version: int) -> None:
    data = raw.file([raw.pair(key, *item) for key, item in VALUES.items()], [], b"", version=version)
    found = opened(file, data)
    assert found.version == version
    expected: dict[str, Any] = {key: item for key, (kind, item) in VALUES.items() if kind != raw.ARRAY}
    expected |= {"numbers": [-1, 2, 3], "booleans": [True, False], "texts": ["a", "", "ü"], "nothing": []}
    expected["nested"] = [[1, 2], [["x"]]]
    assert {key: as_plain(value) for key, value in found.metadata.items()} == expected
    assert {key: type(found.metadata[key]) for key in ("u8", "f32", "bool", "text")} == {
        "u8": int, "f32": float, "bool": bool, "text": str,
    }  # fmt: skip


@pytest.mark.parametrize("number", SCALARS)
def test_arrays_of_numbers_keep_their_dtype(file: Path, number: int) -> None:
    found = opened(file, raw.file([raw.pair("a", raw.ARRAY, (number, [1, 2, 3]))], [], b"")).metadata["a"]
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.dtype(SCALARS[number])
    assert found.tolist() == [1, 2, 3]


def test_tensors(file: Path) -> None:
    found = opened(file, sample())
    assert {name: info.shape for name, info in found.tensors.items()} == {
        "matrix": (2, 4), "blocks": (1, 32), "scalar": (1,),
    }  # fmt: skip
    np.testing.assert_array_equal(found.tensor("matrix"), np.arange(8, dtype=np.float32).reshape(2, 4))
    np.testing.assert_array_equal(found.tensor("blocks"), np.zeros((1, 32), np.float32))
    assert found.tensor("scalar").tolist() == [7.0]
    assert found.raw("blocks").shape == (1, 34)


@pytest.mark.parametrize("alignment", [8, 32, 256])
def test_what_the_format_s_own_library_writes(file: Path, alignment: int) -> None:
    generator = np.random.default_rng(0)
    tensors = {
        "a": generator.normal(size=(3, 5)).astype(np.float32),
        "b": generator.normal(size=(2, 3, 64)).astype(np.float32),
        "c": generator.normal(size=7).astype(np.float16),
    }
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_array("tokens", ["ab", "ü"])
    writer.add_float32("epsilon", 1e-5)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_gguf(file)
    assert found.metadata["general.architecture"] == "llama"
    assert found.metadata["tokens"] == ["ab", "ü"]
    assert found.metadata["epsilon"] == np.float32(1e-5)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found.tensor(name), tensor.astype(np.float32))


# What is refused


def with_header(n_tensors: int = 0, n_pairs: int = 0, **change: Any) -> bytes:
    return raw.header(n_tensors, n_pairs, **change) + bytes(64)


def with_pair(key: str, kind: int, item: Any) -> bytes:
    return raw.file([raw.pair(key, kind, item)], [], b"")


def with_raw_pair(kind: int, payload: bytes) -> bytes:
    return raw.file([raw.text("k") + struct.pack("<I", kind) + payload], [], bytes(64))


def with_tensor(dims: list[int], kind: int = 0, offset: int = 0, name: str = "t") -> bytes:
    return raw.file([], [raw.tensor_info(name, dims, kind, offset)], bytes(64))


def nested(depth: int) -> Any:
    return (raw.ARRAY, [nested(depth - 1)]) if depth else (raw.U8, [])


HOSTILE: dict[str, tuple[bytes, str]] = {
    "magic": (with_header(magic=b"PK\3\4"), r"begins with b'PK\\x03\\x04', expected b'GGUF': not a GGUF file"),
    "version 1": (with_header(version=1), "is version 1, expected version 2 or 3, little-endian"),
    "big-endian": (with_header(version=3 << 24), "is a big-endian file of version 3, expected version 2 or 3"),
    "2**64 tensors": (with_header(n_tensors=2**64 - 1), "announces 18446744073709551615 tensors, expected at most"),
    "1000 tensors": (with_header(n_tensors=1000), "announces 1000 tensors, of 32 bytes and more each; 64 bytes are"),
    "2**64 pairs": (with_header(n_pairs=2**64 - 1), "announces 18446744073709551615 metadata pairs, of 13 bytes and"),
    "long key": (
        raw.header(0, 1) + raw.text("k" * 70_000) + bytes(64),
        "key of metadata pair 0 takes 70000 bytes, expected at most 65535",
    ),
    "endless key": (
        raw.header(0, 1) + struct.pack("<Q", 2**63) + bytes(64),
        "key of metadata pair 0 takes 9223372036854775808 bytes, expected at most",
    ),
    "key twice": (raw.file([raw.pair("k", raw.U8, 1)] * 2, [], b""), "metadata key 'k' is given twice"),
    "key of other bytes": (
        raw.header(0, 1) + raw.text(b"\xff") + bytes(64),
        "key of metadata pair 0 is not UTF-8: b'.xff'",
    ),
    "unknown value type": (with_raw_pair(13, bytes(8)), "metadata 'k' has value type 13, expected 0 to 12"),
    "boolean": (with_raw_pair(raw.BOOL, b"\2"), "metadata 'k' has a boolean of 2, expected 0 or 1"),
    "endless text": (with_raw_pair(raw.STRING, struct.pack("<Q", 2**62)), "text of 'k' takes 4611686018427387904 by"),
    "endless numbers": (
        with_raw_pair(raw.ARRAY, struct.pack("<IQ", raw.F64, 2**61)),
        "announces 2305843009213693952 elements of 'k', of 8 bytes and more each",
    ),
    "endless texts": (
        with_raw_pair(raw.ARRAY, struct.pack("<IQ", raw.STRING, 2**61)),
        "announces 2305843009213693952 elements of 'k', of 8 bytes",
    ),
    "endless arrays": (
        with_raw_pair(raw.ARRAY, struct.pack("<IQ", raw.ARRAY, 2**61)),
        "announces 2305843009213693952 elements of 'k', of 12 bytes",
    ),
    "unknown element type": (
        with_raw_pair(raw.ARRAY, struct.pack("<IQ", 77, 0)),
        "metadata 'k' has elements of value type 77, expected 0 to 12",
    ),
    "deep": (with_pair("k", raw.ARRAY, nested(4)), "metadata 'k' nests more than 4 arrays"),
    "very deep": (
        with_raw_pair(raw.ARRAY, struct.pack("<IQ", raw.ARRAY, 1) * 100_000),
        "metadata 'k' nests more than 4 arrays",
    ),
    "alignment of 0": (with_pair("general.alignment", raw.U32, 0), "general.alignment is 0, expected a power of two"),
    "alignment of 24": (with_pair("general.alignment", raw.U32, 24), "general.alignment is 24, expected a power of"),
    "vast alignment": (with_pair("general.alignment", raw.U64, 2**40), "general.alignment is 1099511627776, expected"),
    "alignment of text": (with_pair("general.alignment", raw.STRING, "32"), "general.alignment is '32', expected a"),
    "alignment of truth": (with_pair("general.alignment", raw.BOOL, True), "general.alignment is True, expected a po"),
    "no dimension": (with_tensor([]), "tensor 't' has 0 dimensions, expected 1 to 4"),
    "five dimensions": (with_tensor([1] * 5), "tensor 't' has 5 dimensions, expected 1 to 4"),
    "long name": (with_tensor([1], name="t" * 65), "name of tensor 0 takes 65 bytes, expected at most 64"),
    "unknown tensor type": (with_tensor([32], kind=16), "tensor 't' has type 16, expected one of F32, F16, .*quantize"),
    "empty tensor": (with_tensor([0, 2**60]), r"tensor 't' has shape \[1152921504606846976, 0\], expected sizes of 1"),
    "overflowing shape": (with_tensor([2**32, 2**32, 2**32, 2**32]), r"tensor 't' has shape .*, expected sizes of 1"),
    "part of a block": (with_tensor([33], kind=8), "tensor 't' has rows of 33, expected whole blocks of 32"),
    "beyond the file": (with_tensor([17]), "tensor 't' ends at byte 132, expected within the 128 of the file"),
    "far beyond the file": (with_tensor([1], offset=2**63), "ends at byte .*, expected within the 128 of the file"),
    "crooked offset": (with_tensor([1], offset=4), "tensor 't' begins at offset 4, expected a multiple of 32"),
    "tensor twice": (
        raw.file([], [raw.tensor_info("t", [1], 0, 0), raw.tensor_info("t", [1], 0, 32)], bytes(64)),
        "tensor 't' is given twice",
    ),
    "shared bytes": (
        raw.file([], [raw.tensor_info("a", [9], 0, 0), raw.tensor_info("b", [1], 0, 32)], bytes(64)),
        "tensors 'a' and 'b' overlap, expected bytes of their own",
    ),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile(file: Path, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.gguf: .*{message}.*Download or convert it again"):
        opened(file, data)


def test_many_values(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_VALUES", 3)
    with pytest.raises(CheckpointError, match="holds more than 3 metadata values at 'k'"):
        opened(file, with_pair("k", raw.ARRAY, (raw.STRING, ["a", "b", "c"])))


def test_large_header(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 100)
    with pytest.raises(CheckpointError, match="100 can be read: the header is larger than 100 bytes"):
        opened(file, with_pair("k", raw.STRING, "x" * 90))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a GGUF file, there is no file: check the path"):
        open_gguf(tmp_path / "none.gguf")
    with pytest.raises(CheckpointError, match="there is no file"):
        open_gguf(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="there is no file"):
        open_gguf(tmp_path / "pipe")


def test_empty_file(file: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a GGUF file, it is empty: download it again"):
        opened(file, b"")


def test_unreadable_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    file.write_bytes(sample())
    monkeypatch.setattr(np, "memmap", refuse)
    with pytest.raises(CheckpointError, match=r"model\.gguf cannot be read \(Permission denied\): check the path"):
        open_gguf(file)


def test_unknown_tensor(file: Path) -> None:
    found = opened(file, sample())
    for look_up in (found.tensor, found.raw, found.info):
        with pytest.raises(CheckpointError, match="no tensor 'none' among its 3: is it a checkpoint of this family"):
            look_up("none")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers(file: Path, number: float) -> None:
    data = np.array([1, number], "<f4").tobytes()
    found = opened(file, raw.file([], [raw.tensor_info("t", [2], 0, 0)], data))
    with pytest.raises(CheckpointError, match="tensor 't' holds NaN or infinity, expected finite weights"):
        found.tensor("t")


def test_a_scale_of_infinity(file: Path) -> None:
    data = np.float16(np.inf).tobytes() + bytes(32)
    found = opened(file, raw.file([], [raw.tensor_info("t", [32], 8, 0)], data))
    with pytest.raises(CheckpointError, match="tensor 't' holds NaN or infinity"):
        found.tensor("t")


# Fuzzing: whatever the bytes, a file is read or a CheckpointError says why not


def survives(data: bytes) -> bool:
    """Whether ``data`` is read, every tensor of it included."""
    try:
        found = GgufFile(Path("model.gguf"), np.frombuffer(data, np.uint8))
        for name in found.tensors:
            found.tensor(name)
    except CheckpointError:
        return False
    return True


def test_truncated_at_every_byte() -> None:
    data = sample()
    assert survives(data)
    assert not any(survives(data[:length]) for length in range(len(data)))


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Flip, overwrite, insert, delete or repeat some bytes."""
    mutant = bytearray(data)
    for _ in range(generator.integers(1, 5)):
        at, length = int(generator.integers(len(mutant))), int(generator.integers(1, 9))
        noise = generator.choice([bytes(length), b"\xff" * length, generator.bytes(length)])
        match generator.integers(5):
            case 0:
                mutant[at] ^= 1 << int(generator.integers(8))
            case 1:
                mutant[at : at + length] = noise
            case 2:
                mutant[at:at] = noise
            case 3:
                del mutant[at : at + length]
            case _:
                mutant[at:at] = mutant[at : at + length]
    return bytes(mutant)


def mutants(count: int) -> Iterator[bytes]:
    generator = np.random.default_rng(3)
    return (mutate(sample(), generator) for _ in range(count))


def test_random_damage() -> None:
    """Five thousand mutants, each read or refused in a blink."""
    read, longest = 0, 0.0
    for mutant in mutants(5000):
        start = time.process_time()
        read += survives(mutant)
        longest = max(longest, time.process_time() - start)
    assert 0 < read < 2500  # damage to weights and names is read, damage to structure is not
    assert longest < 1


def test_random_damage_takes_no_memory() -> None:
    tracemalloc.start()
    for mutant in mutants(500):
        survives(mutant)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def bomb_of_arrays() -> bytes:
    """The most that a megabyte can ask for: empty arrays in an array, 12 bytes each."""
    count = (1 << 20) // 12
    return raw.file(
        [raw.text("k") + struct.pack("<IIQ", raw.ARRAY, raw.ARRAY, count) + struct.pack("<IQ", 8, 0) * count], [], b""
    )


def bomb_of_texts() -> bytes:
    count = (1 << 20) // 8
    return raw.file([raw.text("k") + struct.pack("<IIQ", raw.ARRAY, raw.STRING, count) + bytes(8 * count)], [], b"")


@pytest.mark.parametrize("bomb", [bomb_of_arrays, bomb_of_texts])
def test_memory_is_bounded_by_the_file(file: Path, bomb: Callable[[], bytes]) -> None:
    file.write_bytes(bomb())
    tracemalloc.start()
    open_gguf(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20
