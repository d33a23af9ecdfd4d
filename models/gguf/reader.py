"""Reading a GGUF file as untrusted input: every count, length and offset is checked before it is believed.

The file is mapped, not read: tensors are views of it. Whoever shortens a file while it is mapped ends the process (as
with every mapped file): replace files by renaming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError
from .dequantize import dequantize
from .layout import (
    ARRAY,
    BOOL,
    DEFAULT_ALIGNMENT,
    MAGIC,
    SCALARS,
    STRING,
    TENSOR_TYPES,
    VERSIONS,
    TensorType,
)

MAX_HEADER_BYTES = 128 << 20  # metadata and tensor table; a vocabulary of 262 144 tokens takes about 20 MB
MAX_VALUES = 2_000_000  # strings and arrays in the metadata: each costs more memory than its bytes
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = 65_535  # the specification's own limits, from here to the dimensions
MAX_NAME_BYTES = 64
MAX_DIMENSIONS = 4
MAX_NESTING = 4  # arrays in arrays
MAX_ALIGNMENT = 1 << 16
_SMALLEST_PAIR = 8 + 4 + 1  # an empty key, its type, one byte
_SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8  # an empty name, one dimension, type and offset

Value = int | float | bool | str | NDArray[Any] | list[Any]
"""A metadata value: arrays of numbers and booleans are NumPy's, arrays of strings and of arrays are lists."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One entry of the tensor table. ``shape`` is NumPy's (slowest first); the file lists the fastest first."""

    shape: tuple[int, ...]
    type: TensorType
    start: int
    nbytes: int


class GgufFile:
    """An open file: ``version``, ``metadata``, and ``tensors`` by name, in the order of the file."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        header = _Header(data, str(path))
        self.path = path
        self.version, n_tensors, n_pairs = header.counts()
        self.metadata: dict[str, Value] = header.pairs(n_pairs)
        self.tensors: dict[str, TensorInfo] = header.tensor_table(n_tensors, self.metadata)
        self._data = data

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor, row by row: ``(..., bytes a row)``, a view of the mapped file.

        Raises:
            CheckpointError: there is no such tensor.
        """
        info = self.info(name)
        return self._data[info.start : info.start + info.nbytes].reshape(*info.shape[:-1], -1)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A tensor in float32, in its own memory.

        Raises:
            CheckpointError: there is no such tensor, or it holds NaN or infinity.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # a scale of infinity is found below
            values = dequantize(self.raw(name), self.info(name).type)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{self.path}: tensor {name!r} holds NaN or infinity, expected finite weights: download it again"
            )
        return values

    def info(self, name: str) -> TensorInfo:
        """The entry of a tensor.

        Raises:
            CheckpointError: there is no such tensor.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path}: no tensor {name!r} among its {len(self.tensors)}: is it a checkpoint of this family?"
            )
        return self.tensors[name]


def open_gguf(path: str | Path) -> GgufFile:
    """Map a file and read its header.

    Raises:
        CheckpointError: not a file, not GGUF of version 2 or 3, damaged, or with tensors of a type that is not read.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: expected a GGUF file, there is no file: check the path")
        if not path.stat().st_size:
            raise CheckpointError(f"{path}: expected a GGUF file, it is empty: download it again")
        data = np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check the path") from error
    return GgufFile(path, data.view(np.ndarray))


class _Header:
    """A cursor over the header, which refuses to go beyond the end of the file."""

    def __init__(self, data: NDArray[np.uint8], where: str) -> None:
        self.where = where
        self.size = len(data)
        self.data = data[:MAX_HEADER_BYTES].data
        self.end = len(self.data)
        self.position = 0
        self.values_left = MAX_VALUES

    def fault(self, fault: str) -> NoReturn:
        raise CheckpointError(f"{self.where}: {fault}. Download or convert it again")

    # The parts, in their order

    def counts(self) -> tuple[int, int, int]:
        """Version, number of tensors, number of metadata pairs."""
        magic = bytes(self.take(4, "magic"))
        if magic != MAGIC:
            self.fault(f"begins with {magic!r}, expected {MAGIC!r}: not a GGUF file")
        version = self.integer(4, "version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "big"), "little")
            kind = f"a big-endian file of version {swapped}" if swapped in VERSIONS else f"version {version}"
            self.fault(f"is {kind}, expected version {' or '.join(map(str, VERSIONS))}, little-endian")
        n_tensors, n_pairs = self.integer(8, "tensor count"), self.integer(8, "metadata count")
        if n_tensors > MAX_TENSORS:
            self.fault(f"announces {n_tensors} tensors, expected at most {MAX_TENSORS}")
        self.fits(n_pairs, _SMALLEST_PAIR, "metadata pairs")
        self.fits(n_tensors, _SMALLEST_TENSOR, "tensors")
        return version, n_tensors, n_pairs

    def pairs(self, count: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for index in range(count):
            key = self.text(f"key of metadata pair {index}", MAX_KEY_BYTES)
            if key in found:
                self.fault(f"metadata key {key!r} is given twice")
            found[key] = self.value(self.integer(4, f"type of {key!r}"), key, MAX_NESTING)
        return found

    def tensor_table(self, count: int, metadata: dict[str, Value]) -> dict[str, TensorInfo]:
        alignment = self.alignment(metadata)
        entries = [self.tensor_info(index) for index in range(count)]
        data_start = -(-self.position // alignment) * alignment
        found: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in entries:
            if name in found:
                self.fault(f"tensor {name!r} is given twice")
            nbytes = math.prod(shape) // kind.block_size * kind.block_bytes
            if offset % alignment:
                self.fault(f"tensor {name!r} begins at offset {offset}, expected a multiple of {alignment}")
            if data_start + offset + nbytes > self.size:
                self.fault(
                    f"tensor {name!r} ends at byte {data_start + offset + nbytes}, expected within the {self.size} "
                    "of the file: it is truncated"
                )
            found[name] = TensorInfo(shape=shape, type=kind, start=data_start + offset, nbytes=nbytes)
        self.no_overlap(found)
        return found

    def alignment(self, metadata: dict[str, Value]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not (type(alignment) is int and 8 <= alignment <= MAX_ALIGNMENT and alignment.bit_count() == 1):
            self.fault(f"general.alignment is {alignment!r}, expected a power of two from 8 to {MAX_ALIGNMENT}")
        return alignment

    def tensor_info(self, index: int) -> tuple[str, tuple[int, ...], TensorType, int]:
        name = self.text(f"name of tensor {index}", MAX_NAME_BYTES)
        n_dimensions = self.integer(4, f"dimension count of {name!r}")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            self.fault(f"tensor {name!r} has {n_dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}")
        shape = tuple(self.integer(8, f"shape of {name!r}") for _ in range(n_dimensions))[::-1]
        number = self.integer(4, f"type of {name!r}")
        if number not in TENSOR_TYPES:
            known = ", ".join(kind.name for kind in TENSOR_TYPES.values())
            self.fault(f"tensor {name!r} has type {number}, expected one of {known}: quantize it to one of them")
        kind = TENSOR_TYPES[number]
        # Compared with the file before the product is believed: integers of Python do not overflow.
        if 0 in shape or math.prod(shape) > self.size * kind.block_size:
            self.fault(f"tensor {name!r} has shape {list(shape)}, expected sizes of 1 and more that fit the file")
        if shape[-1] % kind.block_size:
            self.fault(f"tensor {name!r} has rows of {shape[-1]}, expected whole blocks of {kind.block_size}")
        return name, shape, kind, self.integer(8, f"offset of {name!r}")

    def no_overlap(self, tensors: dict[str, TensorInfo]) -> None:
        """No two tensors share bytes: a small file cannot announce more than it holds."""
        end, before = 0, ""
        for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
            if info.start < end:
                self.fault(f"tensors {before!r} and {name!r} overlap, expected bytes of their own")
            end, before = info.start + info.nbytes, name

    # Values

    def value(self, number: int, key: str, nesting: int) -> Value:
        self.values_left -= 1
        if self.values_left < 0:
            self.fault(f"holds more than {MAX_VALUES} metadata values at {key!r}")
        if number in SCALARS:
            item: int | float = self.numbers(number, 1, key)[0].item()
            return item
        if number == BOOL:
            return bool(self.booleans(1, key)[0])
        if number == STRING:
            return self.text(f"text of {key!r}", MAX_HEADER_BYTES)
        if number == ARRAY:
            return self.array(key, nesting)
        return self.fault(f"metadata {key!r} has value type {number}, expected 0 to 12")

    def array(self, key: str, nesting: int) -> NDArray[Any] | list[Any]:
        if not nesting:
            self.fault(f"metadata {key!r} nests more than {MAX_NESTING} arrays")
        number, count = self.integer(4, f"type of {key!r}"), self.integer(8, f"length of {key!r}")
        if number in SCALARS:
            return self.numbers(number, count, key)
        if number == BOOL:
            return self.booleans(count, key)
        if number not in (STRING, ARRAY):
            self.fault(f"metadata {key!r} has elements of value type {number}, expected 0 to 12")
        self.fits(count, 12 if number == ARRAY else 8, f"elements of {key!r}")
        return [self.value(number, key, nesting - 1) for _ in range(count)]

    def numbers(self, number: int, count: int, key: str) -> NDArray[Any]:
        dtype = np.dtype(SCALARS[number])
        self.fits(count, dtype.itemsize, f"elements of {key!r}")
        return np.frombuffer(self.take(count * dtype.itemsize, key), dtype).copy()

    def booleans(self, count: int, key: str) -> NDArray[np.bool_]:
        raw = self.numbers(0, count, key)
        if (raw > 1).any():
            self.fault(f"metadata {key!r} has a boolean of {raw.max()}, expected 0 or 1")
        return raw.astype(np.bool_)

    def text(self, what: str, longest: int) -> str:
        length = self.integer(8, f"length of the {what}")
        if length > longest:
            self.fault(f"{what} takes {length} bytes, expected at most {longest}")
        raw = bytes(self.take(length, what))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fault(f"{what} is not UTF-8: {raw[:20]!r}")

    def integer(self, width: int, what: str) -> int:
        return int.from_bytes(self.take(width, what), "little")

    def fits(self, count: int, smallest: int, what: str) -> None:
        left = self.end - self.position
        if count * smallest > left:
            self.fault(f"announces {count} {what}, of {smallest} bytes and more each; {left} bytes are left")

    def take(self, length: int, what: str) -> memoryview:
        start, self.position = self.position, self.position + length
        if self.position > self.end:
            beyond = f"header is larger than {MAX_HEADER_BYTES} bytes" if self.end < self.size else "file is truncated"
            self.fault(f"{what} takes bytes {start} to {self.position}, {self.end} can be read: the {beyond}")
        return self.data[start : self.position]
