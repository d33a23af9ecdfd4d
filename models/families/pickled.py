"""``pytorch_model.bin``: weights as ``torch.save`` writes them, a zip or a stream with a pickle inside.

A pickle can run code when it is read. PyTorch's own reader with ``weights_only=True`` takes a list of harmless types
and no other (``torch/_weights_only_unpickler.py``); here all but a flat dictionary of dense tensors is refused too, and
what would take more memory than the file: compressed members of the zip, and tensors larger than what is stored of
them. Safetensors go first where a folder has both.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError

PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_ZIP = b"PK\x03\x04"  # how PyTorch tells a zip from a stream


def read_pickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a ``.bin`` file by name.

    Raises:
        CheckpointError: missing, damaged, a pickle that asks for more than tensors, or no dictionary of dense tensors.
    """
    try:
        _check_archive(file)
        found = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 runs no code, see above
    except Exception as error:  # a damaged pickle gives any of a dozen
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise CheckpointError(
            f"{file}: expected weights saved by PyTorch, and nothing but tensors, got {reason[0][:200]}: save them as "
            "safetensors where you trust the file"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{file}: expected a dictionary of tensors by name, got {type(found).__name__}")
    if wrong := [name for name, value in found.items() if not _is_dense(value)]:
        raise CheckpointError(
            f"{file}: {', '.join(wrong[:5])}: expected dense tensors, each stored whole, and nothing but tensors"
        )
    return {name: tensor.detach() for name, tensor in found.items()}


def _check_archive(file: Path) -> None:
    """Refuse a zip that unpacks to more than its own size; streams of older releases are no zips.

    Raises:
        ValueError: it does, or is damaged in a way that the message of the caller explains.
    """
    with file.open("rb") as stream:
        if stream.read(len(_ZIP)) != _ZIP:
            return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if packed := [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(f"{packed[0]!r} in it is compressed, which torch.save never does")
    if (size := sum(member.file_size for member in members)) > (whole := file.stat().st_size):
        raise ValueError(f"members of {size} bytes in a file of {whole}")


def _is_dense(value: object) -> bool:
    """Whether it is a tensor in memory, of numbers, whose elements all have a place of their own."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    if value.is_nested or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
