"""The root is the package: no module of it may be imported a second time under another name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import edgewise

ROOT = Path(__file__).resolve().parent.parent


def second_copies() -> list[str]:
    """Modules that come from the package's folder and have another name than ``edgewise…``."""
    found = []
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        # torch gives some of its modules a bare file name, which would resolve to the working directory.
        path = file.resolve() if file.is_absolute() else Path("/")
        parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
        # Examples lie outside the package: files that a person runs, or names to ``--family``.
        ours = bool(parts) and parts[0] not in ("tests", "examples") and not parts[0].startswith(".")
        if ours and name.partition(".")[0] not in ("edgewise", "__main__"):
            found.append(name)
    return found


def test_no_second_copy_of_the_package() -> None:
    assert Path(edgewise.__file__).resolve() == ROOT / "__init__.py"
    assert second_copies() == []


def test_the_check_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "main.errors", edgewise.errors)
    assert second_copies() == ["main.errors"]
