"""The whole state of a training run in one safetensors file, so that a killed run goes on where it stood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from .transformer import Transformer


def save_state(file: Path, model: Transformer, optimizer: torch.optim.Adam, facts: dict[str, Any]) -> None:
    """Write weights, Adam's moments and ``facts``, to a temporary file first."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value
    temporary = file.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
    temporary.replace(file)


def load_state(file: Path, model: Transformer, optimizer: torch.optim.Adam) -> dict[str, Any]:
    """Put back what :func:`save_state` wrote, and return its facts.

    Raises:
        CheckpointError: not a training state, or that of another network.
    """
    try:
        return _load_state(file, model, optimizer)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{file}: expected the training state of this recipe ({error}): remove it to begin anew"
        ) from error


def _load_state(file: Path, model: Transformer, optimizer: torch.optim.Adam) -> dict[str, Any]:
    with safe_open(file, framework="pt") as stored:
        facts = json.loads((stored.metadata() or {}).get("facts", "null"))
        if not isinstance(facts, dict):
            raise ValueError("it holds no facts")
        names = set(stored.keys())
        for name, parameter in model.named_parameters():
            parameter.data.copy_(stored.get_tensor(f"weight.{name}"))
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in names]
            if keys:
                optimizer.state[parameter] = {key: stored.get_tensor(f"{key}.{name}") for key in keys}
    return facts


class Average:
    """The mean of the last ``count`` snapshots of the weights (Vaswani et al. 2017, section 6.1).

    A run that was stopped goes on from an older state: :meth:`rewind` then drops the snapshots after it, and until
    :meth:`prune` those before it are kept.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def add(self, model: Transformer, step: int) -> None:
        """Keep a snapshot."""
        tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
        save_file(tensors, self.folder / f"snapshot-{step:07d}.safetensors")

    def rewind(self, step: int) -> None:
        """Forget the snapshots later than ``step``."""
        for file in self._files():
            if int(file.stem.rpartition("-")[2]) > step:
                file.unlink()

    def prune(self) -> None:
        """Forget the oldest snapshots, beyond ``count``."""
        for file in self._files()[: -self.count]:
            file.unlink()

    def weights(self) -> dict[str, Tensor]:
        """The mean, by parameter name."""
        mean: dict[str, Tensor] = {}
        files = self._files()[-self.count :]
        for file in files:
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - not a dictionary
                    share = stored.get_tensor(name) / len(files)
                    mean[name] = mean[name] + share if name in mean else share
        return mean

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("snapshot-*.safetensors"))
