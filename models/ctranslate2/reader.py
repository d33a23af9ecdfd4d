"""Reading CTranslate2's ``model.bin`` as untrusted input: every count and length is checked before it is believed.

The file is mapped; variables are views of it. Whoever shortens a file while it is mapped ends the process: replace
files by renaming. Source: ``Model::load`` in ``src/models/model.cc`` and ``ModelSpec._serialize`` in
``python/ctranslate2/specs/model_spec.py`` of CTranslate2 4.8.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CheckpointError

VERSIONS = (5, 6)
"""Binary versions whose layout is read; 6 is the newest."""
MAX_VARIABLES = 1 << 17
MAX_RANK = 4
MAX_NAME = 512  # bytes
_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class ModelBin:
    """What the file holds: the name and revision of its specification, and variables by name, aliases resolved."""

    spec: str
    revision: int
    variables: dict[str, Tensor]


def read_model_bin(file: Path) -> ModelBin:
    """Read a ``model.bin``.

    Raises:
        CheckpointError: missing, damaged, or of another binary version.
    """
    try:
        data = np.memmap(file, dtype=np.uint8, mode="c")  # private: torch wants memory that could be written
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: expected a model.bin of CTranslate2, got {error}") from error
    return _Reader(data, file).model()


class _Reader:
    """One pass over the bytes."""

    def __init__(self, data: NDArray[np.uint8], file: Path) -> None:
        self.data, self.file, self.place = data, file, 0

    def model(self) -> ModelBin:
        version = self.number("<I")
        if version not in VERSIONS:
            self.refuse(f"has binary version {version}, expected {' or '.join(map(str, VERSIONS))}: convert it again")
        spec, revision = self.text(), self.number("<I")
        variables: dict[str, Tensor] = {}
        for _ in range(self.count("variables")):
            name = self.text()
            if name in variables:
                self.refuse(f"has {name!r} twice")
            variables[name] = self.variable(name)
        for _ in range(self.count("aliases")):
            alias, name = self.text(), self.text()
            if alias in variables or name not in variables:
                self.refuse(f"has {alias!r} as an alias of {name!r}, expected a new name of a variable")
            variables[alias] = variables[name]
            if f"{name}_scale" in variables:
                variables.setdefault(f"{alias}_scale", variables[f"{name}_scale"])
        if self.place != len(self.data):
            self.refuse(f"has {len(self.data) - self.place} bytes after its end")
        return ModelBin(spec=spec, revision=revision, variables=variables)

    def variable(self, name: str) -> Tensor:
        rank = self.number("<B")
        if rank > MAX_RANK:
            self.refuse(f"says that {name!r} has {rank} dimensions, expected at most {MAX_RANK}")
        shape = [self.number("<I") for _ in range(rank)]
        kind, size = self.number("<B"), self.number("<I")
        if kind >= len(_DTYPES):
            self.refuse(f"says that {name!r} has type {kind}, expected one below {len(_DTYPES)}")
        dtype = _DTYPES[kind]
        if size == 0 or math.prod(shape) * dtype.itemsize != size:
            self.refuse(f"says that {name!r} has shape {tuple(shape)} of {dtype} in {size} bytes")
        raw = self.take(size)
        if raw.ctypes.data % dtype.itemsize:
            raw = raw.copy()  # variables stand wherever the one before ended
        return torch.from_numpy(raw).view(dtype).reshape(shape)

    def count(self, what: str) -> int:
        count = self.number("<I")
        if count > min(MAX_VARIABLES, len(self.data) - self.place):  # each takes more than a byte
            self.refuse(f"says that it has {count} {what}")
        return count

    def text(self) -> str:
        length = self.number("<H")
        if not 1 <= length <= MAX_NAME:
            self.refuse(f"has a name of {length} bytes at byte {self.place}, expected 1 to {MAX_NAME}")
        raw = self.take(length).tobytes()
        try:
            text = raw[:-1].decode("ascii")
        except UnicodeDecodeError:
            text = "\0"
        if raw[-1] or not text.isprintable():
            self.refuse(f"has a name that is no plain text at byte {self.place - length}")
        return text

    def number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)).tobytes())
        return int(value)

    def take(self, size: int) -> NDArray[np.uint8]:
        """The next bytes, as a view."""
        if size > len(self.data) - self.place:
            self.refuse(f"ends at byte {len(self.data)}, where {size} more are expected from byte {self.place}")
        self.place += size
        return self.data[self.place - size : self.place]

    def refuse(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.file}: the file {what}; it is damaged, or no model.bin of CTranslate2")
