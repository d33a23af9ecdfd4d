"""Reading an ``.npz`` as untrusted input: no pickles, nothing compressed, no array larger than its member.

Headers are Python's literals. Here they are matched, not evaluated: both writers know one form of them.

Source of the format: ``numpy/lib/_format_impl.py`` of NumPy 2.4; Marian writes it by its copy of ``cnpy``.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ...errors import CheckpointError

MAX_MEMBERS = 1 << 16
_LENGTHS = {(1, 0): 2, (2, 0): 4}
"""Bytes that say how long a header is, by version."""
_MAX_HEADER = 10_000  # bytes, as in NumPy
_HEADER = re.compile(
    r"\{'descr': '(<[fiu][248]|[<|][iub]1)', 'fortran_order': (True|False), "
    r"'shape': \((|\d{1,18},|\d{1,18}(?:, \d{1,18}){1,31})\), \}[ \n]*"
)
"""Floats, integers and booleans that PyTorch has too, in this order of bytes."""


def read_npz(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name.

    Raises:
        CheckpointError: missing, damaged, compressed, or with something else in it than arrays of numbers.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                _refuse(file, f"{len(members)} members")
            found = {_name(info, file): _array(archive, info, file) for info in members}
            if len(found) < len(members):
                _refuse(file, "two members of one name")
            return found
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file}: expected an .npz file of Marian's, got {error}: copy it again") from error


def _name(info: zipfile.ZipInfo, file: Path) -> str:
    if not info.filename.endswith(".npy") or info.compress_type != zipfile.ZIP_STORED:
        _refuse(file, f"{info.filename!r}, no array or a compressed one")
    return info.filename.removesuffix(".npy")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: Path) -> NDArray[Any]:
    if info.file_size > info.compress_size or info.file_size > file.stat().st_size:
        _refuse(file, f"{info.filename!r} with a size that is not its own")
    with archive.open(info) as stream:
        header = _header(stream)
        if header is None:
            _refuse(file, f"{info.filename!r} with another header than an array of numbers has")
        dtype, fortran, shape = header
        size = math.prod(shape) * dtype.itemsize
        if size > info.file_size or min(shape, default=1) < 1:
            _refuse(file, f"{info.filename!r} as {shape} of {dtype} in {info.file_size} bytes")
        data = stream.read()
    if len(data) != size:
        _refuse(file, f"{info.filename!r} with {len(data)} bytes, where {size} are expected")
    array = np.frombuffer(bytearray(data), dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(stream: IO[bytes]) -> tuple[np.dtype[Any], bool, tuple[int, ...]] | None:
    """Type, whether columns stand together, shape; ``None`` of anything else."""
    width = _LENGTHS.get(npy.read_magic(stream), 0)
    length = int.from_bytes(stream.read(width), "little")
    found = _HEADER.fullmatch(stream.read(length).decode("latin-1")) if width and length <= _MAX_HEADER else None
    if found is None:
        return None
    return np.dtype(found[1]), found[2] == "True", tuple(int(size) for size in re.findall(r"\d+", found[3]))


def _refuse(file: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{file}: expected an .npz file of Marian's, got {what}: copy it again")
