"""The whole chain on the shipped checkpoint: export, verify, translate, measure; then a table of what came out.

``python -m edgewise.benchmarks.demo`` (``make demo``) needs the ``export`` and ``openvino`` extras. With the variable
``MULTI30K`` naming a folder of that data set it translates the whole test set and gives BLEU against its references;
without, it translates the sentences written for this project and compares with what PyTorch makes of them.

Each system is measured in processes of its own, so that none sees another's memory; rounds over all systems follow one
another, so that a slow minute of the machine hits all of them; the table has the medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .bench import BATCH, DECODING, Workload
from .memory import peak_memory

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "checkpoints" / "translate-en-de"
TARGETS, PRECISIONS = ("cpu", "openvino"), ("fp32", "int8")
TORCH = "pytorch"
BEAM_SIZE = 5
TIMED = {"greedy b1": 40, "beam 5 b1": 16, f"greedy b{BATCH}": 96}
"""Sentences of one timed pass."""

Found: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a measuring process is told; JSON on its command line."""

    system: str
    bundle: str
    checkpoint: str
    threads: int
    texts: str
    """A file with a sentence in every line."""
    length_penalty: float
    translate: bool
    """Translate everything with beam search; else time the workloads."""


# Inside a measuring process.


def work(told: Work) -> Found:
    """Do it, and say how much memory it took."""
    lines = Path(told.texts).read_text(encoding="utf-8").splitlines()
    system = _Torch(told) if told.system == TORCH else _Variant(told)
    if told.translate:
        tokens, texts = system.decode(lines, BEAM_SIZE, BATCH)
        return {"tokens": tokens, "texts": texts, "peak": peak_memory()}
    speed = {workload.name: _sentences_per_second(system, workload, lines) for workload in DECODING}
    return {"speed": speed, "peak": peak_memory()}


def _sentences_per_second(system: _Torch | _Variant, workload: Workload, lines: Sequence[str]) -> float:
    chosen = list(lines[: TIMED[workload.name]])
    system.decode(chosen, workload.beam_size, workload.batch)  # warm up: engines prepare for every new shape
    begin = time.perf_counter()
    system.decode(chosen, workload.beam_size, workload.batch)
    return len(chosen) / (time.perf_counter() - begin)


class _Variant:
    """A variant of the bundle, without torch."""

    def __init__(self, told: Work) -> None:
        from ..runtime.load import load

        target, _, precision = told.system.partition("-")
        self.session = load(told.bundle, target, precision, told.threads)
        self.length_penalty = told.length_penalty

    def decode(self, lines: Sequence[str], beam_size: int, batch: int) -> tuple[list[list[int]], list[str]]:
        """Tokens and text of every line, in requests of ``batch`` lines."""
        found = []
        for i in range(0, len(lines), batch):
            found += self.session.translate(
                list(lines[i : i + batch]),
                beam_size=beam_size,
                length_penalty=self.length_penalty,
                batch_size=batch,
            )
        return [list(generation.tokens) for generation in found], [generation.text for generation in found]


class _Torch:
    """PyTorch's eager mode with a key-value cache, on the same sentences and threads."""

    def __init__(self, told: Work) -> None:
        import torch

        from ..models.checkpoint import load_checkpoint
        from ..runtime.tokenizer import Tokenizer

        torch.set_num_threads(told.threads)
        checkpoint = load_checkpoint(told.checkpoint)
        self.length_penalty = told.length_penalty
        self.model, self.tokenizer = checkpoint.model, Tokenizer.open(checkpoint.tokenizer_file)

    def decode(self, lines: Sequence[str], beam_size: int, batch: int) -> tuple[list[list[int]], list[str]]:
        """As :meth:`_Variant.decode`."""
        from ..models import generate
        from ..runtime.inputs import default_new_tokens

        config, tokens = self.model.config, []
        for i in range(0, len(lines), batch):
            sources = [[*self.tokenizer.encode(line), config.end_id] for line in lines[i : i + batch]]
            limits = [default_new_tokens(len(source), config.max_positions) for source in sources]
            if beam_size == 1:
                tokens += [list(found.tokens) for found in generate.greedy(self.model, sources, limits)]
            else:
                beams = generate.beam(self.model, sources, beam_size, self.length_penalty, limits)
                tokens += [list(best[0].tokens) for best in beams]
        return tokens, [self.tokenizer.decode(ids) for ids in tokens]


# In the process that tells them.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo, or in a measuring process its work."""
    arguments = _arguments(argv)
    if arguments.work:
        print(json.dumps(work(Work(**json.loads(arguments.work)))))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        return Demo(arguments, Path(scratch)).run()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="edgewise.benchmarks.demo", description="The whole chain, and a table.")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="a translation checkpoint")
    parser.add_argument("--output", type=Path, help="keep the bundle in this folder")
    parser.add_argument(
        "--threads", type=int, default=1, help="for every system (default: 1, enough for a small model)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: 3)")
    parser.add_argument("--sentences", type=int, help="translate only so many")
    parser.add_argument("--json", type=Path, help="write all numbers there, too")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


class Demo:
    """One run, with what it has found so far."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self.arguments, self.scratch = arguments, scratch
        self.bundle: Path = arguments.output or scratch / "bundle"
        self.multi30k = Path(os.environ["MULTI30K"]) if os.environ.get("MULTI30K") else None
        self.systems = [TORCH, *(f"{target}-{precision}" for target in TARGETS for precision in PRECISIONS)]
        self.length_penalty = 0.6
        self.begin = time.monotonic()
        self.sources, self.references = self._texts()

    def run(self) -> int:
        """Every step. Returns 1 where a variant does not verify."""
        self._say("export: fp32 and int8 for ONNX Runtime and OpenVINO")
        sizes = self._export()
        self._say("verify: replay PyTorch's reference cases on every variant")
        verified = {system: self._verify(system) for system in self.systems[1:]}
        self._say(f"translate {len(self.sources)} sentences with beam {BEAM_SIZE}, every system in its own process")
        translated = {system: self._measure(system, translate=True) for system in self.systems}
        self._say(f"time {self.arguments.rounds} rounds with {self.arguments.threads} threads")
        rounds = [{s: self._measure(s, translate=False) for s in self.systems} for _ in range(self.arguments.rounds)]
        rows = [self._row(s, sizes, verified, translated, rounds) for s in self.systems]
        self._show(rows, translated)
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps({"rows": rows, "threads": self.arguments.threads}, indent=1))
        return 0 if all(verified.values()) else 1

    def _say(self, what: str) -> None:
        print(f"\n== {time.monotonic() - self.begin:4.0f} s  {what}", flush=True)

    def _texts(self) -> tuple[list[str], list[str] | None]:
        """Sentences and, with Multi30k, their references."""
        count = self.arguments.sentences
        if self.multi30k is None:
            from ..export.sentences import SENTENCES

            return list(SENTENCES[:count]), None
        texts = [self.multi30k / f"test_2016_flickr.{language}" for language in ("en", "de")]
        sources, references = ([*text.read_text(encoding="utf-8").splitlines()[:count]] for text in texts)
        return sources, references

    def _export(self) -> dict[str, int]:
        """Make the bundle, with the gate where there is text to judge by. Returns bytes per variant."""
        from ..cli_progress import Progress
        from ..pipeline import export_bundle
        from ..runtime.bundle import Bundle

        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of optional libraries that are not needed
        evaluation = (self.multi30k / "val.en", self.multi30k / "val.de") if self.multi30k else None
        with Progress("export") as progress:
            report = export_bundle(
                self.arguments.checkpoint, self.bundle, TARGETS, PRECISIONS, evaluation, 0.3, progress
            )
        print(report.table())
        bundle = Bundle.open(self.bundle)
        assert bundle.manifest.generation is not None
        self.length_penalty = bundle.manifest.generation.length_penalty
        whole = sum(file.stat().st_size for file in self.arguments.checkpoint.glob("*.safetensors"))
        return {TORCH: whole} | {variant.name: bundle.size(variant) for variant in bundle.manifest.variants}

    def _verify(self, system: str) -> bool:
        from ..runtime.load import load

        target, _, precision = system.partition("-")
        with load(self.bundle, target, precision, self.arguments.threads) as session:
            report = session.verify()
        print(report.summary(), *report.faults[:10], sep="\n  ", flush=True)
        return report.ok

    def _measure(self, system: str, translate: bool) -> Found:
        """Let a new process do it."""
        texts = self.scratch / "texts"
        texts.write_text("\n".join(self.sources), encoding="utf-8")
        told = Work(
            system=system,
            bundle=str(self.bundle),
            checkpoint=str(self.arguments.checkpoint),
            threads=self.arguments.threads,
            texts=str(texts),
            length_penalty=self.length_penalty,
            translate=translate,
        )
        command = [sys.executable, "-m", "edgewise.benchmarks.demo", "--work", json.dumps(vars(told))]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        found: Found = json.loads(output)
        return found

    def _row(
        self, system: str, sizes: dict[str, int], verified: dict[str, bool], translated: Found, rounds: list[Found]
    ) -> Found:
        """One line of the table."""
        ours, theirs = translated[system], translated[TORCH]
        same = [a == b for a, b in zip(ours["tokens"], theirs["tokens"], strict=True)]
        speed = {name: statistics.median(r[system]["speed"][name] for r in rounds) for name in TIMED}
        torch_speed = {name: statistics.median(r[TORCH]["speed"][name] for r in rounds) for name in TIMED}
        return {
            "system": system,
            "bytes": sizes[system],
            "verified": verified.get(system),
            "agreement": sum(same) / len(same),
            **_quality(ours["texts"], self.references, theirs["texts"]),
            "sentences_per_second": speed,
            "times_pytorch": {name: speed[name] / torch_speed[name] for name in TIMED},
            "peak_memory_bytes": statistics.median(r[system]["peak"] for r in rounds),
        }

    def _show(self, rows: list[Found], translated: Found) -> None:
        metric = "BLEU" if self.references else "chrF"
        self._say("done")
        print(_table(rows, metric))
        against = (
            f"BLEU: sacreBLEU, cased, on the {len(self.sources)} sentences of test_2016_flickr, beam {BEAM_SIZE}."
            if self.references
            else f"chrF: against PyTorch's own translations of {len(self.sources)} sentences, beam {BEAM_SIZE}."
        )
        print(f"\n{against} Same: sentences whose tokens are exactly PyTorch's.")
        print(
            f"Sentences/s: {self.arguments.threads} threads, median of {self.arguments.rounds} rounds; in brackets, "
            "how many times PyTorch eager with a cache. PyTorch's MB: the float16 checkpoint.\n"
        )
        best = translated["cpu-int8"]["texts"]
        for source, text in list(zip(self.sources, best, strict=True))[:6]:
            print(f"  {source}\n    {text}")


def _quality(texts: list[str], references: list[str] | None, theirs: list[str]) -> Found:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if references is None:
        return {"chrF": CHRF().corpus_score(texts, [theirs]).score}
    metric = BLEU()
    return {"BLEU": metric.corpus_score(texts, [references]).score, "signature": str(metric.get_signature())}


def _table(rows: list[Found], metric: str) -> str:
    names = list(TIMED)
    header = ["", "MB", metric, "same", *names, "memory MB"]
    cells = [
        [
            row["system"],
            f"{row['bytes'] / 1e6:.2f}",
            f"{row[metric]:.2f}",
            f"{row['agreement']:.1%}",
            *(f"{row['sentences_per_second'][n]:.1f} ({row['times_pytorch'][n]:.1f}x)" for n in names),
            f"{row['peak_memory_bytes'] / 1e6:.0f}",
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in [header, *cells]
    )


if __name__ == "__main__":
    sys.exit(main())
