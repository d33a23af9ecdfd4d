"""The bundle: one directory between build and run, read as untrusted input.

:meth:`Bundle.open` checks everything before an engine sees a file: the manifest, that no file lies elsewhere, sizes and
hashes, the structure of every graph, and that each graph has the inputs and outputs that the manifest says. It needs no
engine and no onnx package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BundleFormatError, TargetError
from .cases import ReferenceCases, read_cases
from .chat import CHAT_TEMPLATE_FILE, read_template
from .integrity import check_containment, check_files, check_folder
from .manifest import (
    CASES_FILE,
    MANIFEST_FILE,
    RECORDED,
    REPORT_FILE,
    SOURCE_TOKENIZER_FILE,
    TOKENIZER_FILE,
    GraphSpec,
    Manifest,
    TensorSpec,
    Variant,
    quantized_file,
    read_manifest,
)
from .quantized import QuantizedReference, read_quantized
from .scan import ScannedGraph, read_graph, scan_graph
from .schema import load_json, raise_faults
from .weights import check_finite

__all__ = ["Bundle"]

_MAX_REPORT_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle.

    ``graphs`` holds what the scan found in every graph file that was read, under its path; ``verified``: hashes were
    checked.
    """

    path: Path
    manifest: Manifest
    graphs: Mapping[str, ScannedGraph]
    verified: bool

    @classmethod
    def open(
        cls,
        path: str | Path,
        verify: bool = True,
        *,
        allow_hard_links: bool = False,
        choose: Callable[[Manifest], Variant] | None = None,
    ) -> Bundle:
        """Check the bundle at ``path`` and open it.

        ``verify=False`` skips the hashes and the look for NaN in the weights, and nothing else. ``choose``: the variant
        that will run; of the others neither is looked at, so that opening one does not read them all.
        ``allow_hard_links`` is for the bundle inside the installed package: uv and conda link package files out of
        their caches.

        Raises:
            BundleFormatError: no bundle there, or a manifest that is malformed, newer, or does not fit its graphs.
            BundleIntegrityError: a file is missing or differs in size or hash, or weights are not numbers.
            UnsafeBundleError: a file is a link or not listed, or a graph holds what it may not.
        """
        root = Path(path)
        check_folder(root)
        manifest = read_manifest(root / MANIFEST_FILE)
        check_containment(root, manifest, allow_hard_links=allow_hard_links)
        chosen = choose(manifest) if choose else None
        left_out = [v for v in manifest.variants if chosen is not None and v != chosen]
        check_files(root, manifest, hashes=verify, left_out=[variant.folder for variant in left_out])
        looked_at = [variant for variant in manifest.variants if variant not in left_out]
        graphs = {file: _scan(root, manifest, variant.folder, file) for variant, file in _graph_files(looked_at)}
        _check_signatures(looked_at, graphs)
        if verify:
            for variant, file in _graph_files(looked_at):
                check_finite(root / variant.folder, graphs[file].external, file)
        return cls(path=root, manifest=manifest, graphs=graphs, verified=verify)

    def variant(self, target: str, precision: str) -> Variant:
        """The variant for ``target`` at ``precision``.

        Raises:
            TargetError: not in this bundle; names those that are.
        """
        for variant in self.manifest.variants:
            if (variant.target, variant.precision) == (target, precision):
                return variant
        there = ", ".join(v.name for v in self.manifest.variants)
        raise TargetError(
            f"no variant {target}-{precision} in {self.path}, which has: {there}. Choose one of these, or export it "
            f"with 'edgewise export --target {target} --precision {precision}'"
        )

    def graph_path(self, variant: Variant, graph: str) -> Path:
        """The file of a graph of ``variant``; ``graph`` is one of ``signature.GRAPHS``.

        Raises:
            BundleFormatError: the variant has no such graph.
        """
        if graph not in variant.graphs:
            raise BundleFormatError(
                f"variant {variant.name} has no graph {graph!r}, which has: {', '.join(variant.graphs)}. "
                "Export the bundle again"
            )
        return self.path / variant.graph_path(graph)

    def size(self, variant: Variant) -> int:
        """Bytes of the graphs and weights of ``variant``."""
        return sum(f.bytes for f in self.manifest.files if f.path.startswith(f"{variant.folder}/"))

    def chat_template(self) -> str:
        """The chat template, which was not run yet.

        Raises:
            BundleFormatError: it cannot be read, is too long, or no UTF-8.
        """
        return read_template(self.path / CHAT_TEMPLATE_FILE)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer file, in the format of the ``tokenizers`` library."""
        return self.path / TOKENIZER_FILE

    @property
    def source_tokenizer_path(self) -> Path | None:
        """That of sources, where they have a vocabulary of their own."""
        return self.path / SOURCE_TOKENIZER_FILE if self.manifest.file(SOURCE_TOKENIZER_FILE) else None

    def cases(self) -> ReferenceCases:
        """The reference cases, read and checked against the model.

        Raises:
            BundleFormatError: malformed, of another task or checkpoint, or beyond the vocabulary.
        """
        where = self.path / CASES_FILE
        cases = read_cases(where)
        said = {"kind": self.manifest.task, "checkpoint_sha256": self.manifest.provenance["checkpoint_sha256"]}
        faults = [
            f"{name} is {getattr(cases, name)!r}, expected {value!r} as in {MANIFEST_FILE}"
            for name, value in said.items()
            if getattr(cases, name) != value
        ]
        if faults:
            raise_faults(str(where), faults)
        cases.check_model(self.manifest.model, str(where))
        return cases

    def quantized(self, variant: Variant, cases: ReferenceCases) -> QuantizedReference | None:
        """What the integers of ``variant`` give for ``cases``; ``None`` for a precision that has no such record.

        Raises:
            BundleFormatError: malformed, of another variant or checkpoint, or not of these cases.
        """
        if variant.precision not in RECORDED:
            return None
        where = self.path / quantized_file(variant.name)
        reference = read_quantized(where)
        if reference.variant != variant.name:
            raise_faults(str(where), [f"variant is {reference.variant!r}, expected {variant.name!r}"])
        reference.check_cases(cases, str(where))
        return reference

    def report(self) -> dict[str, Any]:
        """What the build measured: quality and size per variant; empty where the bundle has no report.

        Raises:
            BundleFormatError: the report is not a JSON object.
        """
        if self.manifest.file(REPORT_FILE) is None:
            return {}
        report = load_json(self.path / REPORT_FILE, _MAX_REPORT_BYTES)
        if not isinstance(report, dict):
            raise_faults(str(self.path / REPORT_FILE), [f"{type(report).__name__}, expected an object"])
        return report


def _graph_files(variants: Sequence[Variant]) -> list[tuple[Variant, str]]:
    """Every graph file once, with its variant."""
    files = {variant.graph_path(graph): variant for variant in variants for graph in variant.graphs}
    return [(variant, file) for file, variant in files.items()]


def _scan(root: Path, manifest: Manifest, folder: str, file: str) -> ScannedGraph:
    siblings = {
        entry.path.removeprefix(f"{folder}/"): entry.bytes
        for entry in manifest.files
        if entry.path.startswith(f"{folder}/") and entry.path.endswith(".bin")
    }
    return scan_graph(read_graph(root / file), file, siblings)


def _check_signatures(variants: Sequence[Variant], graphs: Mapping[str, ScannedGraph]) -> None:
    """Every graph takes and gives what the manifest says, in name, type, shape and order."""
    faults = [
        fault
        for variant in variants
        for name, spec in variant.graphs.items()
        for fault in _differences(variant.graph_path(name), spec, graphs[variant.graph_path(name)])
    ]
    if faults:
        raise_faults(MANIFEST_FILE, faults)


def _differences(file: str, spec: GraphSpec, graph: ScannedGraph) -> list[str]:
    sides = (("inputs", spec.inputs, graph.inputs), ("outputs", spec.outputs, graph.outputs))
    return [
        f"{file} has {kind} {_only(there, said)}, expected {_only(said, there)}"
        for kind, said, there in sides
        if said != there
    ]


def _only(these: tuple[TensorSpec, ...], those: tuple[TensorSpec, ...]) -> str:
    """The tensors of ``these`` that ``those`` lack; all of them where only the order differs."""
    found = [str(t) for t in these if t not in those] or [t.name for t in these]
    return "[" + ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") + "]"
