"""Bundles of the folders beside this file, made once a process, and what the original library gave."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgewise.export import cases as export_cases
from edgewise.export.probes import probes
from edgewise.pipeline_onnx import export_onnx_folder

GOLDENS = Path(__file__).parent / "goldens"
PAIRED, ALONE = ("marian", "bart", "t5"), ("llama", "gpt2", "opt")
DECODERS = (*PAIRED, *ALONE)
ENCODERS = ("bert-embed", "bert-mask", "bert-classify", "bert-tag", "bert-answer", "electra-classify")
KEPT = ("empty", "caption-00", "caption-01", "one-word", "digits", "emoji", "longest", "vocabulary-000")


def expected(name: str) -> list[dict[str, Any]]:
    """Rows of what the original library gave."""
    rows: list[dict[str, Any]] = json.loads((GOLDENS / name / "expected.json").read_text())
    return rows


def export(
    source: Path, out: Path, targets: Sequence[str] = ("cpu", "openvino"), precisions: Sequence[str] | None = None
) -> Path:
    """As ``edgewise export``, with few cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            export_cases, "probes", lambda codec, room: [p for p in probes(codec, room) if p.name.startswith(KEPT)]
        )
        export_onnx_folder(source, out, targets, precisions, lambda *_: None)
    return out


@cache
def bundle(name: str) -> Path:
    """A golden folder as a bundle; not to be changed."""
    folder = Path(tempfile.mkdtemp(prefix="edgewise-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return export(GOLDENS / name, folder / name)


def copied(name: str, folder: Path) -> Path:
    """A golden folder to change."""
    return Path(shutil.copytree(GOLDENS / name, folder / name))


def targets_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every name with every target that its bundle has."""
    return [(name, target) for name in names for target in ("cpu", "openvino") if target == "cpu" or name not in PAIRED]
