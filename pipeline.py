"""From a checkpoint to a bundle: every arrow of the design is one call here.

checkpoint -> reference -> portable graphs -> quantized graphs -> variants -> bundle -> gate
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
import torch

from . import __version__
from .errors import ConfigError, GateError, InputError
from .export.activations import Inputs, record_inputs
from .export.cases import record_cases
from .export.portable import portable_graphs
from .export.quantized_cases import record_quantized
from .export.variants import LAYOUTS, alignment_layer, variant_graphs
from .export.weights import write_graphs
from .models.checkpoint import Checkpoint
from .models.config import ModelConfig
from .models.data import read_lines
from .models.open import open_checkpoint
from .pipeline_output import LENGTH_PENALTY, NO_LICENCE, chat_spec, licence_of, whole_or_nothing
from .pipeline_output import BuildReport as BuildReport
from .quantize import gate
from .quantize.choose import choose_kernels
from .quantize.graph import matrices, quantize_graph
from .quantize.scaling import scalings
from .quantize.schemes import Kernel, scheme_of
from .runtime.bundle.cases import ReferenceCases, write_cases
from .runtime.bundle.decoding import Generation
from .runtime.bundle.manifest import (
    CASES_FILE,
    LICENSE_FILE,
    RECORDED,
    REPORT_FILE,
    SOURCE_TOKENIZER_FILE,
    TOKENIZER_FILE,
    CacheSpec,
    KernelChoice,
    Languages,
    Manifest,
    Task,
    Variant,
    file_entries,
    write_manifest,
)
from .runtime.bundle.model_spec import ModelSpec
from .runtime.bundle.quantized import write_quantized
from .runtime.bundle.scan import graph_spec
from .runtime.bundle.schema import from_json
from .runtime.languages import directed
from .runtime.load import load
from .runtime.tokenizer import Tokenizer

Progress = Callable[[int, int], None]
KernelChooser = Callable[[dict[str, ir.Model], str, str], dict[str, Kernel]]


def measured_kernels(
    graphs: dict[str, ir.Model], precision: str, target: str, inputs: Inputs | None = None
) -> dict[str, Kernel]:
    """The default choice of kernels: the fastest on this machine of those that are exact enough on ``inputs``."""
    return choose_kernels(graphs, scheme_of(precision, target), target, inputs=inputs)


def export_bundle(
    source: Path,
    out: Path,
    targets: Sequence[str],
    precisions: Sequence[str],
    evaluation: tuple[Path, Path] | None,
    max_drop: float,
    progress: Progress,
    kernels: KernelChooser | None = None,
    family_file: Path | None = None,
    languages: Mapping[str, str] | None = None,
) -> BuildReport:
    """Make the bundle ``out`` from the checkpoint ``source``, of any kind that :func:`open_checkpoint` reads.

    ``family_file`` is a Python file with the family of a folder of Hugging Face's, which is run.
    With ``evaluation`` (texts, and their translations) every quantized variant is compared with fp32 on its target, and
    a loss of more than ``max_drop`` BLEU refuses the build; ``languages`` are their ``source`` and ``target``, where
    the checkpoint translates between several. ``kernels`` chooses what carries which matrix; left out,
    :func:`measured_kernels` does, of what the reference's matrices read. ``out`` appears whole or not at all; an older
    bundle there is replaced.

    Raises:
        CheckpointError, ConfigError: the checkpoint cannot be read.
        TargetError: a precision is unknown, or a target would get no variant.
        ExportError: ``out`` holds something else, or a graph cannot be made.
        GateError: a variant lost too much; the message holds the table.
        InputError: the evaluation texts cannot be read, or do not fit each other, or their languages are not known.
    """
    checkpoint = open_checkpoint(source, family_file)
    task = task_of(checkpoint.model.config)
    if evaluation is not None and task != "translate":
        raise ConfigError(f"--eval judges translations; {source} is made to {task}: leave it out")
    texts = (read_lines(evaluation[0]), read_lines(evaluation[1])) if evaluation is not None else None
    if texts is not None:
        _check_languages(checkpoint, languages or {})
    judged = texts is not None and set(precisions) != {"fp32"}
    wanted = variants_made(targets, ["fp32", *precisions] if judged else precisions)
    variants_made(targets, precisions)
    with whole_or_nothing(out) as folder:
        builder = _Builder(checkpoint, task, folder, progress)
        builder.record()
        for target, precision in wanted:
            builder.add(target, precision, kernels)
        builder.finish(builder.variants)
        rows = _judge(folder, builder.variants, *texts, languages or {}, progress) if texts is not None else ()
        report = builder.report(out, precisions, rows, max_drop if rows else None)
        _refuse_fallen(rows, max_drop, report.table())
        builder.keep(precisions, report)
    return report


def variants_made(targets: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """Target and precision of every variant to make, each once; a target leaves out a precision not made for it.

    Raises:
        TargetError: a precision is unknown, or none of them is made for one of the targets.
    """
    found = []
    for target in dict.fromkeys(targets):
        made = [p for p in dict.fromkeys(precisions) if target in scheme_of(p, "cpu").kernels]
        if not made:
            scheme_of(precisions[0], target)  # says why
        found += [(target, precision) for precision in made]
    return found


def task_of(config: ModelConfig) -> Task:
    """What a network of this shape is for."""
    if config.speech is not None:
        return "transcribe"
    if config.architecture == "encoder-decoder":
        return "translate"
    if config.architecture == "decoder":
        return "generate"
    if config.head == "classes":
        rates = config.class_scores == "identity" or len(config.class_names) == 1
        return "regress" if rates else "classify"
    tasks: dict[str, Task] = {"embedding": "embed", "vocabulary": "fill_mask", "tags": "tag", "span": "answer"}
    return tasks[config.head]


class _Builder:
    """Writes a bundle's files into ``folder``, the manifest last."""

    def __init__(self, checkpoint: Checkpoint, task: Task, folder: Path, progress: Progress) -> None:
        self.checkpoint, self.task, self.folder, self.progress = checkpoint, task, folder, progress
        self.portable = portable_graphs(checkpoint.model)
        self.variants: list[Variant] = []
        self.cases: ReferenceCases | None = None
        self.inputs: Inputs | None = None
        self.model = ModelSpec.from_json(checkpoint.model.config.to_json())
        checkpoint.write_tokenizer(folder / TOKENIZER_FILE)
        if checkpoint.source_tokenizer is not None:
            (folder / SOURCE_TOKENIZER_FILE).write_text(checkpoint.source_tokenizer, encoding="utf-8")
        (folder / LICENSE_FILE).write_text(checkpoint.notice or f"{NO_LICENCE}\n", encoding="utf-8")
        self.chat, self.no_chat = chat_spec(checkpoint.chat if task == "generate" else None, folder, self.model)

    def record(self) -> None:
        """The reference cases, while the reference is at hand."""
        codec, own = Tokenizer.open(self.folder / TOKENIZER_FILE), self.folder / SOURCE_TOKENIZER_FILE
        source = Tokenizer.open(own) if own.is_file() else None
        self.cases = record_cases(self.checkpoint, self.task, codec, self.max_context, self.progress, source)
        write_cases(self.folder / CASES_FILE, self.cases)

    @property
    def max_context(self) -> int:
        """Tokens of a text and of its continuation, specials included."""
        return self.checkpoint.max_context

    def _measured(self, precision: str, target: str) -> dict[str, Kernel]:
        assert self.cases is not None, "record() comes first"
        if precision != "fp32" and self.inputs is None:
            self.inputs = record_inputs(self.checkpoint.model, self.cases.cases)
        return measured_kernels(self.portable, precision, target, self.inputs)

    def add(self, target: str, precision: str, kernels: KernelChooser | None) -> None:
        """One variant: quantized, rewritten for its target, written, and what its integers give."""
        chosen = kernels(self.portable, precision, target) if kernels else self._measured(precision, target)
        scaled = scalings(self.portable, self.inputs or {})
        quantized = {name: quantize_graph(graph, chosen, scaled) for name, graph in self.portable.items()}
        folder = self.folder / f"{target}-{precision}"
        files = write_graphs(folder, variant_graphs(quantized, target))
        if precision in RECORDED:
            assert self.cases is not None, "record() comes first"
            own = record_quantized(self.checkpoint, target, precision, chosen, scaled, self.cases, self.progress)
            write_quantized(self.folder, own)
        self.variants.append(
            Variant(
                target=target,  # type: ignore[arg-type]
                precision=precision,  # type: ignore[arg-type]
                folder=folder.name,
                graphs={name: graph_spec(file) for name, file in files.items()},
                cache=CacheSpec.of(self.model.decoder, LAYOUTS[target]),
                kernels=tuple(self._choices(chosen)),
            )
        )

    def _choices(self, chosen: dict[str, Kernel]) -> Iterator[KernelChoice]:
        for graph in self.portable.values():
            for _, name, weight in matrices(graph):
                yield KernelChoice(matrix=name, shape=(weight.shape[1], weight.shape[0]), kernel=chosen[name])

    def finish(self, variants: list[Variant]) -> None:
        """Write the manifest over everything that is in the folder now."""
        training = self.checkpoint.training
        recommended = {
            "beam_size": self.checkpoint.beam_size,
            "length_penalty": training.get("scores", {}).get("length_penalty", LENGTH_PENALTY),
            "max_new_tokens": None if self.model.encoder else min(64, self.max_context),
            "end_ids": list(self.checkpoint.end_ids),
            **self.checkpoint.decoding,
        }
        generation = from_json(Generation, recommended, "the recommended decoding") if self.model.decoder else None
        languages = training.get("languages")
        manifest = Manifest(
            name=self.checkpoint.name,
            task=self.task,
            model=self.model,
            max_context=self.max_context,
            generation=generation,
            languages=Languages(source=languages[0], target=languages[1]) if languages else None,
            licence=licence_of(self.checkpoint.notice),
            provenance={
                "edgewise": __version__,
                "checkpoint_sha256": self.checkpoint.sha256,
                "torch": torch.__version__,
                "recipe": str(training.get("recipe", "unknown")),
                **({"chat_template": self.no_chat} if self.no_chat else {}),
            },
            variants=tuple(variants),
            files=file_entries(self.folder),
            alignment_layer=alignment_layer(self.portable),
            chat=self.chat,
        )
        write_manifest(self.folder, manifest)

    def report(
        self, out: Path, precisions: Sequence[str], rows: tuple[gate.Row, ...], max_drop: float | None
    ) -> BuildReport:
        """Sizes and the gate's table."""
        kept = [variant for variant in self.variants if variant.precision in precisions]
        sizes = {v.name: sum(f.stat().st_size for f in (self.folder / v.folder).iterdir()) for v in kept}
        metric = gate.signature() if rows else ""
        return BuildReport(bundle=out, variant_bytes=sizes, gate=rows, metric=metric, max_drop=max_drop)

    def keep(self, precisions: Sequence[str], report: BuildReport) -> None:
        """Drop variants built only for comparison; write the report and the final manifest."""
        for variant in self.variants:
            if variant.precision not in precisions:
                shutil.rmtree(self.folder / variant.folder)
        (self.folder / REPORT_FILE).write_text(json.dumps(report.to_json(), indent=1) + "\n")
        self.finish([variant for variant in self.variants if variant.precision in precisions])


def _check_languages(checkpoint: Checkpoint, languages: Mapping[str, str]) -> None:
    """Refuse languages of an evaluation before the minutes of a build, not after."""
    model = ModelSpec.from_json(checkpoint.model.config.to_json())
    if model.languages is not None:
        directed(model, checkpoint.name, languages.get("source"), languages.get("target"))
    elif languages:
        raise InputError(f"{checkpoint.name!r} has no languages to choose from: leave out --from and --to")


def _judge(
    folder: Path,
    variants: list[Variant],
    sources: list[str],
    references: list[str],
    languages: Mapping[str, str],
    progress: Progress,
) -> tuple[gate.Row, ...]:
    """A row for every variant, against fp32 on its own target."""
    outputs: dict[str, list[str]] = {}
    for variant in variants:
        with load(folder, variant.target, variant.precision) as session:
            outputs[variant.name] = gate.translate_all(session, sources, progress, languages)
    return tuple(gate.compare(v.name, outputs[v.name], outputs[f"{v.target}-fp32"], references) for v in variants)


def _refuse_fallen(rows: tuple[gate.Row, ...], max_drop: float, table: str) -> None:
    """The table is part of the refusal: nothing else of the build remains."""
    try:
        gate.check(rows, max_drop)
    except GateError as error:
        raise GateError(f"{error}\n{table}") from None
