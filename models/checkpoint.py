"""Checkpoints on disk: a folder of JSON, one safetensors file and a tokenizer; never a pickle.

======================  =====================================================
``config.json``         :class:`ModelConfig`
``model.safetensors``   the weights, float16
``tokenizer.json``      the tokenizer
``training.json``       data, recipe, curve and scores
``README.md``           the model card
``NOTICE``              the weights' own licence notice
======================  =====================================================
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError
from .chat import ChatSource
from .config import ModelConfig
from .transformer import Transformer

WEIGHTS, CONFIG, TOKENIZER, TRAINING, NOTICE = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "training.json",
    "NOTICE",
)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights that are read; those of eight bits mean nothing without scales."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory: the network in float32 and evaluation mode, and what the folder says of it.

    ``max_context``: most tokens of a text, specials included; at most the network's ``max_positions``. ``beam_size``:
    with how many beams it is decoded where nobody says. ``end_ids``: tokens that end a text beside the network's
    ``end_id``. ``decoding``: what else it recommends, as a bundle's ``Generation`` has it. ``chat``: its chat template.
    ``made_tokenizer``: the contents of a ``tokenizer.json`` where
    none lies in ``folder``.
    """

    model: Transformer
    folder: Path
    name: str
    weight_files: tuple[Path, ...]
    max_context: int
    training: dict[str, Any]
    notice: str
    beam_size: int = 5
    end_ids: tuple[int, ...] = ()
    decoding: Mapping[str, Any] = field(default_factory=dict)
    made_tokenizer: str | None = None
    chat: ChatSource | None = None

    @property
    def tokenizer_file(self) -> Path:
        """Where the tokenizer lies, if it was not made."""
        return self.folder / TOKENIZER

    def write_tokenizer(self, file: Path) -> None:
        """Put the ``tokenizer.json`` there."""
        if self.made_tokenizer is None:
            shutil.copyfile(self.tokenizer_file, file)
        else:
            file.write_text(self.made_tokenizer, encoding="utf-8")

    @property
    def sha256(self) -> str:
        """Hash of the weights' files one after another, for provenance."""
        return _sha256(*self.weight_files)


def save_weights(model: Transformer, folder: Path) -> None:
    """Write the configuration, and the weights as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(model.config.to_json(), indent=2) + "\n")
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)


def write_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Put ``scores`` into ``training.json``, with the hash of the weights that they are of."""
    training = read_json(folder / TRAINING)
    training["scores"] = {"weights_sha256": _sha256(folder / WEIGHTS), **scores}
    (folder / TRAINING).write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")


def current_scores(folder: Path) -> dict[str, Any]:
    """The scores in ``training.json``; empty where there are none, or those of other weights."""
    scores: dict[str, Any] = read_json(folder / TRAINING).get("scores", {})
    return scores if scores.get("weights_sha256") == _sha256(folder / WEIGHTS) else {}


def _sha256(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint folder, strictly.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor is missing, unexpected, misshapen or not finite.
        ConfigError: the configuration contradicts itself.
    """
    folder = Path(folder)
    config = ModelConfig.from_json(read_json(folder / CONFIG))
    model = filled(blueprint(config), read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    notice = folder / NOTICE
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        folder=folder,
        name=folder.resolve().name,
        weight_files=(folder / WEIGHTS,),
        max_context=config.max_positions,
        training=read_json(folder / TRAINING),
        notice=notice.read_text() if notice.is_file() else "",
    )


def plain_name(text: str) -> str:
    """A name that a bundle may have: a letter first, then letters, digits, ``_``, ``.`` and ``-``."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:60]
    return name if re.match(r"[A-Za-z]", name) else f"m-{name}"


def read_json(file: Path) -> Any:
    """Parse a JSON file.

    Raises:
        CheckpointError: missing or not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected a readable JSON file, got {error}: train or copy it again") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: missing, damaged, or a pickle.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(2) in (b"PK", b"\x80\x02"):
                raise CheckpointError(f"{file}: expected safetensors, got a pickle, which can run code: convert it")
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: expected a safetensors file, got {error}: train or copy it again") from error


def blueprint(config: ModelConfig) -> Transformer:
    """The network without memory for its parameters: their names and shapes, to compare a file with."""
    with torch.device("meta"):
        return Transformer(config)


def filled(
    plan: Transformer, tensors: Mapping[str, Tensor], where: str, known_faults: Sequence[str] = ()
) -> Transformer:
    """The network of a :func:`blueprint` with ``tensors`` in float32; it takes memory once every one of them fits.

    Every fault, those already known too, goes into one error.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen, of another type than ``DTYPES``, or not finite in
            float32; ``where`` begins the message.
    """
    expected = plan.state_dict()
    faults = [*known_faults]
    faults += [f"missing {name}" for name in expected.keys() - tensors.keys()]
    faults += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
    for name in sorted(expected.keys() & tensors.keys()):
        have, want = tensors[name], expected[name]
        if have.shape != want.shape:
            faults.append(f"{name} has shape {tuple(have.shape)}, expected {tuple(want.shape)}")
        elif have.dtype not in DTYPES:
            faults.append(f"{name} has dtype {have.dtype}, expected one of {', '.join(map(str, DTYPES))}")
        elif not bool(torch.isfinite(have.float()).all()):
            faults.append(f"{name} holds NaN or infinity, in float32")
    if faults:
        raise CheckpointError(f"{where} does not fit its configuration: " + "; ".join(sorted(faults)))
    model = Transformer(plan.config)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model
