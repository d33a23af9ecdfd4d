"""A checkpoint folder of any kind that edgewise reads."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import Checkpoint, load_checkpoint
from .families.huggingface import is_huggingface, read_huggingface


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a folder of edgewise's own, or one as Hugging Face writes it.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the configuration.
        ConfigError: the configuration contradicts itself, or is not understood.
    """
    folder = Path(folder)
    return read_huggingface(folder) if is_huggingface(folder) else load_checkpoint(folder)
