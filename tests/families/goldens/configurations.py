"""What the release of transformers that is installed writes into ``config.json``, for the scripts beside this file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers  # noqa: TID251 makes what the tests compare with


def print_configurations(cases: Mapping[str, Mapping[str, Any]]) -> None:
    """Print an object of configurations by case, one a line.

    A case is an architecture, and what tells it from others behind a comma; its fields change the defaults.
    """
    rows = []
    for case, fields in cases.items():
        kind = getattr(transformers, case.partition(",")[0])
        with tempfile.TemporaryDirectory() as folder:
            kind(kind.config_class(**fields)).save_pretrained(folder)
            config = json.loads((Path(folder) / "config.json").read_text())
        rows.append(f' "{case}": {json.dumps(config)}')
    print("{\n" + ",\n".join(rows) + "\n}")
