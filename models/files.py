"""What a checkpoint's files are called, and what of them is read without torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

WEIGHTS, CONFIG, TOKENIZER, TRAINING, NOTICE = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "training.json",
    "NOTICE",
)
SOURCE_TOKENIZER = "source_tokenizer.json"


def read_json(file: Path) -> Any:
    """Parse a JSON file.

    Raises:
        CheckpointError: missing or not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected a readable JSON file, got {error}: train or copy it again") from error


def plain_name(text: str) -> str:
    """A name that a bundle may have: a letter first, then letters, digits, ``_``, ``.`` and ``-``."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:60]
    return name if re.match(r"[A-Za-z]", name) else f"m-{name}"
