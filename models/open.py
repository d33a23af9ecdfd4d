"""A checkpoint of any kind that edgewise reads."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import Checkpoint, load_checkpoint
from .families.huggingface import is_huggingface, read_huggingface
from .gguf.checkpoint import read_gguf


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Read a folder of edgewise's own, one as Hugging Face writes it, or a GGUF file.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the configuration.
        ConfigError: the configuration contradicts itself, or is not understood.
        TokenizerError: a GGUF file has a tokenizer of a kind that is not converted.
    """
    source = Path(source)
    if source.is_file():
        return read_gguf(source)
    return read_huggingface(source) if is_huggingface(source) else load_checkpoint(source)
