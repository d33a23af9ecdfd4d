"""A checkpoint of any kind that edgewise reads."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from .checkpoint import Checkpoint, load_checkpoint
from .ctranslate2.checkpoint import is_ctranslate2, read_ctranslate2
from .families.from_file import family_from_file
from .families.huggingface import is_huggingface, read_huggingface
from .families.torch_nn import is_torch_nn, read_torch_nn
from .gguf.checkpoint import read_gguf
from .marian.checkpoint import SUFFIX as MARIAN_SUFFIX
from .marian.checkpoint import read_marian


def open_checkpoint(source: str | Path, family_file: Path | None = None) -> Checkpoint:
    """Read a folder of edgewise's own, of Hugging Face's or of CTranslate2's, a GGUF file, an ``.npz`` of Marian, or
    what a TOML or JSON file says of a ``torch.nn.Transformer``.

    ``family_file``: a Python file with the family of a folder as Hugging Face writes it. It is run.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the configuration.
        ConfigError: the configuration contradicts itself, or is not understood; the family's file cannot be used.
        TokenizerError: a GGUF file has a tokenizer of a kind that is not converted.
    """
    source = Path(source)
    if family_file is not None:
        if source.is_file() or not is_huggingface(source):
            raise ConfigError(
                f"{source}: a family of your own ({family_file}) reads folders whose config.json names architectures; "
                "this is none"
            )
        return read_huggingface(source, (family_from_file(family_file, source),))
    if source.is_file() and source.suffix == MARIAN_SUFFIX:
        return read_marian(source)
    if source.is_file():
        return read_torch_nn(source) if is_torch_nn(source) else read_gguf(source)
    if is_huggingface(source):
        return read_huggingface(source)
    return read_ctranslate2(source) if is_ctranslate2(source) else load_checkpoint(source)
