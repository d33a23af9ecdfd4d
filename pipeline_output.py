"""What every build of a bundle ends in: a report, a licence, and a folder that is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ExportError, TokenizerError
from .models.chat import ChatSource
from .quantize import gate
from .runtime.bundle.chat import CHAT_TEMPLATE_FILE, ChatSpec
from .runtime.bundle.manifest import MANIFEST_FILE, TOKENIZER_FILE, Licence
from .runtime.bundle.model_spec import ModelSpec
from .runtime.chat import template_for
from .runtime.tokenizer import Tokenizer

LENGTH_PENALTY = 0.6
NO_LICENCE = "No licence file was found."


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built: bytes a variant, and the gate's table where there was text to judge by.

    ``note``: what else became of what was read.
    """

    bundle: Path
    variant_bytes: dict[str, int]
    gate: tuple[gate.Row, ...]
    metric: str
    max_drop: float | None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``report.json``."""
        return {
            "bytes": self.variant_bytes,
            "metric": self.metric,
            "max_drop": self.max_drop,
            "gate": [row.to_json() for row in self.gate],
            **({"note": self.note} if self.note else {}),
        }

    def table(self) -> str:
        """For people to read."""
        sizes = [f"{name:<16} {size:>12,} bytes" for name, size in self.variant_bytes.items()]
        judged = [f"\n{self.metric}", gate.table(self.gate)] if self.gate else []
        return "\n".join([str(self.bundle), *sizes, *filter(None, [self.note]), *judged])


def licence_of(notice: str) -> Licence:
    """The notice of the weights; its first line is their licence's name."""
    text = notice.strip() or NO_LICENCE
    return Licence(name=text.splitlines()[0][:200], notice=text)


def chat_spec(source: ChatSource | None, folder: Path, model: ModelSpec) -> tuple[ChatSpec | None, str]:
    """Write a chat template into the bundle ``folder``, beside its tokenizer. Returns what the manifest says of it.

    A template that does not run in the sandbox is left out, and the reason is returned instead: the model generates
    without it.
    """
    if source is None:
        return None, ""
    codec = Tokenizer.open(folder / TOKENIZER_FILE)
    try:
        end = template_for(source.template, codec, source.variables).turn_end()
    except TokenizerError as error:
        return None, f"left out: {error}"[:2000]
    ids = codec.encode_control(end) if end else []
    (folder / CHAT_TEMPLATE_FILE).write_text(source.template, encoding="utf-8", newline="")
    return ChatSpec(variables=source.variables, end_ids=tuple(i for i in ids if i != model.end_id)), ""


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its name at the end, or vanishes."""
    if out.exists() and not (out / MANIFEST_FILE).is_file():
        raise ExportError(f"{out} exists and is no bundle: choose another folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    replaced = folder.with_name(f"{folder.name}.old")
    try:
        yield folder
        folder.chmod(0o755)
        if out.exists():
            out.rename(replaced)
        folder.rename(out)
    finally:
        for rest in (folder, replaced):
            shutil.rmtree(rest, ignore_errors=True)
