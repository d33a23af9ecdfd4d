"""Checkpoint folders of tiny random models, as training would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgewise.models.checkpoint import save_weights
from edgewise.models.tokenizer import train_bpe

from .tiny import tiny_model

LINES = ["A man is riding a bicycle.", "Two dogs run on the grass.", "Ein Mann fährt Fahrrad.", "A woman, a hat."] * 4
VOCAB_SIZE = 330
_ARCHITECTURES: dict[str, Any] = {"translate": "encoder-decoder", "generate": "decoder"}


def write_checkpoint(folder: Path, task: str, seed: int = 0, **arguments: Any) -> Path:
    """A checkpoint for ``task``; the rest goes to the model."""
    names = ("negative", "positive") if task == "classify" else ()
    model = tiny_model(seed, _ARCHITECTURES.get(task, "encoder"), vocab_size=VOCAB_SIZE, class_names=names, **arguments)
    save_weights(model, folder)
    (folder / "tokenizer.json").write_bytes(train_bpe(LINES, VOCAB_SIZE).to_str().encode())
    (folder / "training.json").write_text(json.dumps({"recipe": f"tiny-{task}"}))
    (folder / "NOTICE").write_text("For tests.\n")
    return folder
