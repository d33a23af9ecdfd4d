"""A family that a person adds: a Python file outside the package, with its table under the name ``FAMILY``.

Such a file is code, and reading it runs it, with all that its user may do. So it is only ever the one that was named,
never one that lies beside a checkpoint or a bundle: those are data, and come from strangers.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from ...errors import ConfigError, EdgewiseError
from ..checkpoint import CONFIG, TOKENIZER, WEIGHTS
from ..config import ModelConfig
from .family import Facts, Family, Fields
from .pickled import PICKLED, PICKLED_INDEX
from .wordpiece import VOCABULARY

NAME = "FAMILY"
INDEX = "model.safetensors.index.json"
_DATA = (CONFIG, WEIGHTS, INDEX, PICKLED, PICKLED_INDEX, TOKENIZER, VOCABULARY, "tokenizer.model", "manifest.json")
"""Files that a checkpoint or a bundle has beside it."""
_MODULE = "family_of_ones_own"


def family_from_file(file: Path, source: Path) -> Family:
    """Run ``file`` and return its ``FAMILY``; ``source`` is the checkpoint that it is for.

    Raises:
        ConfigError: no Python file, one in a folder of a checkpoint or bundle, one that raises, or one whose
            ``FAMILY`` is missing or no :class:`~edgewise.models.families.Family`.
    """
    if file.suffix != ".py" or not file.is_file():
        raise ConfigError(f"{file}: expected a Python file that holds {NAME} = Family(...), see docs/families.md")
    # Where a link lies, too: whoever wrote the folder chose what it points to.
    places = {file.parent.resolve(), file.resolve().parent}
    if any(p.is_relative_to(source.resolve()) or any((p / name).is_file() for name in _DATA) for p in places):
        raise ConfigError(
            f"{file} lies in the folder of a checkpoint or bundle: that is data, and this file would be run. Read it, "
            "and copy it elsewhere if you trust it"
        )
    family = getattr(_run(file), NAME, None)
    if not isinstance(family, Family):
        raise ConfigError(f"{file}: {NAME} is {family!r}, expected {NAME} = Family(...), see docs/families.md")
    return dataclasses.replace(
        family,
        config=lambda fields, facts: _configuration(family, fields, facts, file),
        adapt=_guarded("adapt", family.adapt, Tensor, file),
        unread_rows=_guarded("unread_rows", family.unread_rows, Mapping, file),
        tokenizer=_guarded("tokenizer", family.tokenizer, str | None, file),
    )


def _run(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # where dataclasses and pickles look for it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[_MODULE]
        raise ConfigError(f"{file} could not be run: {_shown(error, file)}") from error
    return module


def _guarded(name: str, function: Callable[..., Any], kind: Any, file: Path) -> Callable[..., Any]:
    """``function`` of ``file`` with errors of the package's own."""

    def guarded(*arguments: Any) -> Any:
        try:
            found = function(*arguments)
        except EdgewiseError:
            raise
        except Exception as error:
            raise ConfigError(f"{file}: its {name} function failed: {_shown(error, file)}") from error
        if not isinstance(found, kind):
            wanted = getattr(kind, "__name__", str(kind))
            raise ConfigError(f"{file}: its {name} function returned {type(found).__name__}, expected {wanted}")
        return found

    return guarded


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
