"""``pytorch_model.bin``: weights as ``torch.save`` writes them, a zip or a stream with a pickle inside.

A pickle can run code when it is read. PyTorch's own reader with ``weights_only=True`` takes a list of harmless types
and no other (``torch/_weights_only_unpickler.py``); here all but a flat dictionary of dense tensors is refused too.
Safetensors go first where a folder has both.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError

PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def read_pickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a ``.bin`` file by name.

    Raises:
        CheckpointError: missing, damaged, a pickle that asks for more than tensors, or no dictionary of dense tensors.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 runs no code, see above
    except Exception as error:  # a damaged pickle gives any of a dozen
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise CheckpointError(
            f"{file}: expected weights saved by PyTorch, and nothing but tensors, got {reason[0][:200]}: save them as "
            "safetensors where you trust the file"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{file}: expected a dictionary of tensors by name, got {type(found).__name__}")
    wrong = [name for name, t in found.items() if not isinstance(t, Tensor) or t.layout != torch.strided]
    if wrong:
        raise CheckpointError(f"{file}: {', '.join(wrong[:5])}: expected dense tensors, and nothing but tensors")
    return {name: tensor.detach() for name, tensor in found.items()}
