"""State dictionaries that ``torch.save`` wrote, read as untrusted input.

PyTorch's restricted unpickler (``weights_only=True``) makes tensors and plain containers and calls nothing else; the
archive is mapped and holds no compressed member, so a small file cannot become a large one.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError


def read_pickled(file: Path, state: str = "") -> dict[str, Tensor]:
    """The tensors of a ``.pt`` file by name: the dictionary in it, or the one that it holds under ``state``.

    Raises:
        CheckpointError: missing, damaged, of a format older than PyTorch 1.6, with more in it than data, or no
            dictionary of dense tensors.
    """
    _check_archive(file)
    try:
        # Restricted, and checked above; everybody else reads safetensors.
        data: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # noqa: TID251
    except Exception as error:  # of many classes, by what is wrong with the bytes
        reason = str(error).partition("\n")[0][:300]
        raise CheckpointError(
            f"{file}: expected a state dictionary and nothing but tensors, got {type(error).__name__}: {reason}. Save "
            "model.state_dict(), best as safetensors"
        ) from error
    return _tensors(data, state, file)


def _check_archive(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{file}: expected what torch.save writes since PyTorch 1.6, a zip archive, got {error}: save it again"
        ) from error
    if packed:
        raise CheckpointError(f"{file}: {packed[0]!r} in it is compressed, which torch.save never does: save it again")


def _tensors(data: Any, state: str, file: Path) -> dict[str, Tensor]:
    whole = data
    if state:
        data = data.get(state) if isinstance(data, dict) else None
    if not isinstance(data, dict) or not data or not all(isinstance(name, str) for name in data):
        held = f"a dictionary of {', '.join(map(repr, list(whole)[:8]))}" if isinstance(whole, dict) else type(whole)
        wanted = f"a state dictionary under {state!r}" if state else "a state dictionary"
        raise CheckpointError(f"{file}: expected {wanted}, got {held}")
    for name, value in data.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            hint = "" if state else "; if the state dictionary lies under a name in it, give that as 'state'"
            kind = f"a {value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{file}: {name!r} is {kind}, expected a dense tensor{hint}")
    return {name: value.detach() for name, value in data.items()}
