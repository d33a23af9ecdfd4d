"""Reading an ``.npz`` as untrusted input: no pickles, nothing compressed, no array larger than its member.

Source of the format: ``numpy/lib/_format_impl.py`` of NumPy 2.4; Marian writes it by its copy of ``cnpy``.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ...errors import CheckpointError

MAX_MEMBERS = 1 << 16
_KINDS = "fiub"  # floats, integers, booleans
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


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
            return {_name(info, file): _array(archive, info, file) for info in members}
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
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            _refuse(file, f"{info.filename!r} of version {version}")
        shape, fortran, dtype = _HEADERS[version](stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in _KINDS or size > info.file_size or min(shape, default=1) < 1:
            _refuse(file, f"{info.filename!r} as {shape} of {dtype} in {info.file_size} bytes")
        data = stream.read()
    if len(data) != size:
        _refuse(file, f"{info.filename!r} with {len(data)} bytes, where {size} are expected")
    array = np.frombuffer(bytearray(data), dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _refuse(file: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{file}: expected an .npz file of Marian's, got {what}: copy it again")
