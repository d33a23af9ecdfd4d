"""A family that a person adds: a Python file outside the package, with its table under the name ``FAMILY``.

Such a file is code, and reading it runs it, with all that its user may do. So it is only ever the one that was named,
never one that lies beside a checkpoint or a bundle: those are data, and come from strangers.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import traceback
from pathlib import Path
from types import ModuleType

from ...errors import ConfigError
from ..checkpoint import TOKENIZER, WEIGHTS
from ..config import ModelConfig
from .family import Facts, Family, Fields

NAME = "FAMILY"
_DATA = (WEIGHTS, TOKENIZER, "manifest.json")  # what a checkpoint or a bundle has beside it


def family_from_file(file: Path, source: Path) -> Family:
    """Run ``file`` and return its ``FAMILY``; ``source`` is the checkpoint that it is for.

    Raises:
        ConfigError: no Python file, one in a folder of a checkpoint or bundle, one that raises, or one whose
            ``FAMILY`` is missing or no :class:`~edgewise.models.families.Family`.
    """
    if file.suffix != ".py" or not file.is_file():
        raise ConfigError(f"{file}: expected a Python file that holds {NAME} = Family(...), see docs/families.md")
    place = file.resolve().parent
    if place.is_relative_to(source.resolve()) or any((place / name).is_file() for name in _DATA):
        raise ConfigError(
            f"{file} lies in the folder of a checkpoint or bundle: that is data, and this file would be run. Read it, "
            "and copy it elsewhere if you trust it"
        )
    family = getattr(_run(file), NAME, None)
    if not isinstance(family, Family):
        raise ConfigError(f"{file}: {NAME} is {family!r}, expected {NAME} = Family(...), see docs/families.md")
    return dataclasses.replace(family, config=lambda fields, facts: _configuration(family, fields, facts, file))


def _run(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgewise_family", file)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{file} could not be run: {_shown(error, file)}") from error
    return module


def _configuration(family: Family, fields: Fields, facts: Facts, file: Path) -> ModelConfig:
    try:
        config = family.config(fields, facts)
    except ConfigError:
        raise
    except Exception as error:
        faults = f"; before that: {'; '.join(fields.faults)}" if fields.faults else ""
        raise ConfigError(f"{file}: its config function failed: {_shown(error, file)}{faults}") from error
    if not isinstance(config, ModelConfig):
        raise ConfigError(f"{file}: its config function returned {config!r}, expected a ModelConfig: fields.build(...)")
    return config


def _shown(error: BaseException, file: Path) -> str:
    """What was raised, and the last line of ``file`` that it came through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    where = f", line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
