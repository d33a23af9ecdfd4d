"""Logits of small Gemmas, GPT-2s and Phi-3s by llama.cpp, in float32. Run as ``make_goldens`` is, but bare."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from ..gemma import IDS, LAYERS, write_gemma
from .make_goldens import logits, write

EVERY = 29  # token; that is enough, and a small file


def main() -> None:
    found = {}
    for architecture in LAYERS:
        for tied in (True, False) if architecture != "gemma2" else (True,):
            with tempfile.TemporaryDirectory() as folder:
                path = write_gemma(Path(folder) / "tiny.gguf", architecture, tied=tied)
                rows = np.array(list(logits(path, IDS)))
            found[f"{architecture}, {'tied' if tied else 'untied'}"] = np.round(rows[:, ::EVERY], 5).tolist()
    write("tiny_gemma.json", {"ids": IDS, "every": EVERY, "logits": found})


if __name__ == "__main__":
    main()
