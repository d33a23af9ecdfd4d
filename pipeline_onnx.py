"""From a folder of another exporter's ONNX graphs to a bundle, without torch.

graphs -> graphs in our form -> variants -> bundle; the reference is the graphs themselves, run naively.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import onnx_ir as ir
from onnxruntime import __version__ as ORT_VERSION

from . import __version__
from .errors import ExportError, TargetError
from .export.onnx_folder import adapt, merged
from .export.onnx_folder.files import (
    ALONE,
    DECODER,
    ENCODER,
    MERGED,
    WITH_PAST,
    GraphFiles,
    find_graphs,
    settings_folder,
)
from .export.onnx_folder.halves import widened
from .export.onnx_folder.integers import integer_products
from .export.onnx_folder.reading import read_graph
from .export.onnx_folder.reference import LATER, GraphRecorder, NaiveGraphs
from .export.onnx_folder.sizes import sizes_of
from .export.passes.candidates import choose_candidates
from .export.variants import LAYOUTS
from .export.weights import write_graphs
from .models.families.graph_settings import GraphSettings, read_graph_settings
from .pipeline_output import LENGTH_PENALTY, NO_LICENCE, BuildReport, chat_spec, licence_of, whole_or_nothing
from .runtime.bundle import signature as names
from .runtime.bundle.cases import ReferenceCases, write_cases
from .runtime.bundle.decoding import Generation
from .runtime.bundle.manifest import (
    CASES_FILE,
    LICENSE_FILE,
    REPORT_FILE,
    TOKENIZER_FILE,
    CacheSpec,
    Layout,
    Manifest,
    Target,
    Task,
    Variant,
    file_digest,
    file_entries,
    write_manifest,
)
from .runtime.bundle.model_spec import ModelSpec
from .runtime.bundle.required import check_required
from .runtime.bundle.scan import graph_spec
from .runtime.bundle.schema import from_json
from .runtime.tokenizer import Tokenizer

Progress = Callable[[int, int], None]


def export_onnx_folder(
    source: Path,
    out: Path,
    targets: Sequence[str],
    precisions: Sequence[str] | None,
    progress: Progress,
    exporter: str = "",
) -> BuildReport:
    """Make the bundle ``out`` from the ONNX graphs in ``source``, or in the folder ``onnx`` inside it.

    ``precisions``: which of those that are there; left out, all. Nothing is quantized. The graphs of an
    encoder-decoder run on target ``cpu`` alone, which others among ``targets`` leave out. ``exporter``: what made the
    graphs, where that is known. ``out`` appears whole or not at all; an older bundle there is replaced.

    Raises:
        CheckpointError, ConfigError: a file is missing or damaged, or the files do not fit each other.
        UnsafeBundleError: a graph holds what no bundle may hold.
        TargetError: a precision is not there, or no target is left.
        ExportError: ``out`` holds something else, or a graph is not as exporters make it.
    """
    found = _chosen(source, find_graphs(source), precisions)
    folder_of_graphs = {files.precision: _Graphs(files) for files in found}
    first = folder_of_graphs[found[0].precision]
    settings = read_graph_settings(settings_folder(source), first.sizes)
    made: tuple[Target, ...] = ("cpu",) if first.paired else ("cpu", "openvino")
    wanted = [target for target in made if target in targets]
    if not wanted:
        raise TargetError(
            f"the graphs of {source} are of an encoder and its decoder, which run on target cpu, not on "
            f"{', '.join(targets)}: name cpu, or export the checkpoint itself"
        )
    with whole_or_nothing(out) as folder:
        builder = _Builder(source, settings, folder)
        for graphs in folder_of_graphs.values():
            for target in wanted:
                builder.add(graphs, target)
        builder.record(first, progress)
        return builder.finish(out, exporter)


def _chosen(source: Path, found: Sequence[GraphFiles], precisions: Sequence[str] | None) -> list[GraphFiles]:
    """The graphs of some precisions, the most precise first."""
    there = {files.precision: files for files in found}
    if absent := [name for name in precisions or () if name not in there]:
        raise TargetError(
            f"{source} has graphs in {', '.join(there)}, not in {', '.join(absent)}: edgewise quantizes checkpoints, "
            "not the graphs of others"
        )
    return [files for name, files in there.items() if precisions is None or name in precisions]


class _Graphs:
    """The graphs of one precision: an encoder, a first call and every later call; or one of them."""

    def __init__(self, files: GraphFiles) -> None:
        self.precision, self.paired, self.files = files.precision, files.paired, files.files
        read = {name: read_graph(file) for name, file in files.files.items()}
        self.names = {name: file.name for name, file in files.files.items()}
        self.halves = [self.names[name] for name, model in read.items() if widened(model)]
        self.encoder, self.first, self.later = read.get(ENCODER), read.get(DECODER), read.get(WITH_PAST)
        for name in (MERGED, ALONE):
            if name in read and merged.is_merged(read[name]):
                self.first, self.later = merged.taken_apart(read[name], str(files.files[name]))
                self.names |= dict.fromkeys((DECODER, WITH_PAST), self.names[name])
        self.alone = read.get(ALONE)
        if (self.first is None) == (self.alone is None) or (self.encoder is None) != (self.first is None):
            raise ExportError(
                f"{', '.join(self.names.values())}: expected one graph alone, or an encoder beside a decoder that "
                f"chooses by {merged.CHOICE}: export it again without merging"
            )
        self.sizes = sizes_of(self.encoder, self.later, self.alone, str(next(iter(files.files.values()))))

    @property
    def sha256(self) -> str:
        """Hash of the hashes of its files, in order."""
        return sha256("".join(file_digest(file) for file in self.files.values()).encode()).hexdigest()

    @property
    def read_by_reference(self) -> str:
        """The files that the reference runs."""
        if not self.paired:
            return self.names[ALONE]
        without = " without its past" if MERGED in self.files else ""
        return f"{self.names[ENCODER]} and {self.names[DECODER]}{without}"

    @property
    def naive(self) -> dict[str, ir.Model]:
        """Those that the reference runs."""
        if self.alone is not None:
            return {"decoder" if self.sizes.kind == "decoder" else "encoder": self.alone}
        assert self.encoder is not None and self.first is not None
        assert self.later is not None
        return {"encoder": self.encoder, "decoder": self.first, LATER: self.later}

    def adapted(self, settings: GraphSettings) -> dict[str, ir.Model]:
        """The graphs of a bundle."""
        size, banned = settings.model["vocab_size"], settings.suppressed
        if self.alone is not None and self.sizes.kind == "decoder":
            return {names.DECODER: adapt.decoder_alone(self.alone, self.names[ALONE], size, banned)}
        if self.alone is not None:
            return {names.ENCODER: adapt.encoder_alone(self.alone, self.names[ALONE], settings.model)}
        assert self.encoder is not None and self.first is not None and self.later is not None
        width = settings.model["encoder"]["d_model"]
        return {
            names.ENCODER: adapt.encoder_beside_decoder(self.encoder, self.names[ENCODER], width),
            names.PREFILL: adapt.first_call(self.first, self.names[DECODER], width, size, banned),
            names.DECODER: adapt.later_call(self.later, self.names[WITH_PAST], size, banned),
        }


class _Builder:
    """Writes a bundle's files into ``folder``, the manifest last."""

    def __init__(self, source: Path, settings: GraphSettings, folder: Path) -> None:
        self.source, self.settings, self.folder = source, settings, folder
        self.model = ModelSpec.from_json(settings.model)
        self.task = _task_of(self.model)
        self.variants: list[Variant] = []
        self.reference, self.digest = "", ""
        self.halves: dict[str, None] = {}
        (folder / TOKENIZER_FILE).write_text(settings.tokenizer, encoding="utf-8")
        (folder / LICENSE_FILE).write_text(settings.notice or f"{NO_LICENCE}\n", encoding="utf-8")
        self.chat, self.no_chat = chat_spec(settings.chat if self.task == "generate" else None, folder, self.model)

    def record(self, graphs: _Graphs, progress: Progress) -> None:
        """The reference cases, of the graphs as they were."""
        self.digest = graphs.sha256
        codec = Tokenizer.open(self.folder / TOKENIZER_FILE)
        with tempfile.TemporaryDirectory(prefix="edgewise-") as place:
            place_of_graphs, banned = Path(place) / "graphs", self.settings.suppressed
            naive = NaiveGraphs(graphs.naive, place_of_graphs, banned, self.model.vocab_size)
            recorder = GraphRecorder(naive, self.model, codec, self.settings.max_context)
            cases = recorder.record(self.task, progress)
        wide = "float16 made float32, " if graphs.halves else ""
        how = "searched through their own cache and read without" if recorder.cached else "run without a cache"
        self.reference = f"{graphs.read_by_reference} as exported, {wide}{how} in ONNX Runtime {ORT_VERSION}"
        recorded = ReferenceCases(
            kind=self.task,
            checkpoint_sha256=self.digest,
            torch=None,
            seed=None,
            logit_ids=recorder.logit_ids,
            cases=cases,
        )
        write_cases(self.folder / CASES_FILE, recorded)

    def add(self, graphs: _Graphs, target: Target) -> None:
        """One variant."""
        self.halves |= dict.fromkeys(graphs.halves)
        adapted = graphs.adapted(self.settings)
        layout: Layout = "growing" if target == "cpu" else LAYOUTS[target]
        if target == "cpu":
            adapted = {n: choose_candidates(m) if n != names.ENCODER else m for n, m in adapted.items()}
        folder = self.folder / f"{target}-{graphs.precision}"
        files = write_graphs(folder, adapted)
        variant = Variant(
            target=target,
            precision=graphs.precision,
            folder=folder.name,
            graphs={name: graph_spec(file) for name, file in files.items()},
            cache=CacheSpec.of(self.model.decoder, layout),
            kernels=integer_products(adapted.values()),
        )
        if target == "cpu":  # the other engine adds inputs and outputs of its own
            check_required(variant, self.model)
        self.variants.append(variant)

    def finish(self, out: Path, exporter: str) -> BuildReport:
        """Write the report and the manifest over everything that is in the folder now."""
        sizes = {v.name: sum(f.stat().st_size for f in (self.folder / v.folder).iterdir()) for v in self.variants}
        wide = f"float16 of {', '.join(self.halves)} became float32" if self.halves else ""
        report = BuildReport(bundle=out, variant_bytes=sizes, gate=(), metric="", max_drop=None, note=wide)
        (self.folder / REPORT_FILE).write_text(json.dumps(report.to_json(), indent=1) + "\n")
        most = None if self.model.encoder else min(64, self.settings.max_context)
        recommended = {"length_penalty": LENGTH_PENALTY, "max_new_tokens": most, **self.settings.decoding}
        generation = from_json(Generation, recommended, "the recommended decoding") if self.model.decoder else None
        manifest = Manifest(
            name=self.settings.name,
            task=self.task,
            model=self.model,
            max_context=self.settings.max_context,
            generation=generation,
            languages=None,
            licence=licence_of(self.settings.notice),
            provenance={
                "edgewise": __version__,
                "checkpoint_sha256": self.digest,
                "reference": self.reference,
                "configuration": self.settings.how,
                **({"exporter": exporter} if exporter else {}),
                **({"widened": wide} if wide else {}),
                **({"chat_template": self.no_chat} if self.no_chat else {}),
            },
            variants=tuple(self.variants),
            files=file_entries(self.folder),
            chat=self.chat,
        )
        write_manifest(self.folder, manifest)
        return report


def _task_of(model: ModelSpec) -> Task:
    if model.encoder and model.decoder:
        return "translate"
    if model.decoder:
        return "generate"
    if model.head == "classes":
        return "regress" if model.rates else "classify"
    tasks: dict[str, Task] = {"embedding": "embed", "vocabulary": "fill_mask", "tags": "tag", "span": "answer"}
    return tasks[model.head]
