"""The manifest: what a bundle holds, as frozen dataclasses that are their own schema.

``manifest.json`` is read as untrusted input: unknown, missing, mistyped, contradictory and absurd fields are refused,
all in one :class:`~edgewise.errors.BundleFormatError`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from ...errors import BundleFormatError
from . import signature
from .chat import CHAT_TEMPLATE_FILE, ChatSpec
from .decoding import Generation
from .model_spec import ModelSpec, Name, StackSpec
from .schema import (
    LATER,
    Between,
    Length,
    Text,
    dump_json,
    from_json,
    load_json,
    parse_json,
    raise_faults,
    refuse,
    shown,
    to_json,
)

FORMAT_VERSION = 1  # a reader refuses a higher one; raise it when an older reader would misread the bundle

MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
SOURCE_TOKENIZER_FILE = "source_tokenizer.json"
CASES_FILE = "reference/cases.json"
REPORT_FILE = "report.json"
LICENSE_FILE = "LICENSE"
WEIGHTS_FILE = "weights.bin"

MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_BYTES = 1 << 40

Task = Literal["translate", "generate", "fill_mask", "classify", "regress", "tag", "answer", "embed", "transcribe"]
Target = Literal["cpu", "openvino"]
Precision = Literal["fp32", "int8", "int8-fast", "int4"]
Layout = Literal["shared-buffer", "stateful", "growing", "none"]
DType = Literal["float32", "float16", "int64", "int32", "int8", "uint8", "bool"]

RECORDED: tuple[Precision, ...] = ("int8",)
"""Precisions whose variants come with a quantized reference: a row's result has to be its own."""

_Identifier = Annotated[str, Text(64, r"[A-Za-z][A-Za-z0-9_.-]*")]
_Digest = Annotated[str, Text(64, r"[0-9a-f]{64}")]
_GraphFile = Annotated[str, Text(64, r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.onnx")]
# Data only: a bundle has no place for native code, pickles or device blobs. At most one folder deep, and plain names:
# no "..", no absolute path, no drive, no character that one file system folds and another does not.
_FOLDER = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"
_DATA_FILE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,58}\.(onnx|bin|json|md|txt)|LICENSE"
_Path = Annotated[str, Text(130, rf"({_FOLDER}/)?({_DATA_FILE})")]
_Dim = Annotated[int, Between(0, 2**31)] | Annotated[str, Text(64)]


@dataclass(frozen=True, kw_only=True)
class Languages:
    """What a translator reads and writes, as BCP 47 tags."""

    source: _Identifier
    target: _Identifier


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of the weights; ``notice`` is the text that ``inspect`` prints."""

    name: Name
    notice: Annotated[str, Text(20_000)]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph; a dimension is a size, or the name of one that varies."""

    name: Name
    dtype: DType
    shape: Annotated[tuple[_Dim, ...], Length(0, 8)]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """One graph: ``file`` is a plain name in the folder of its variant."""

    file: _GraphFile
    inputs: Annotated[tuple[TensorSpec, ...], Length(1, 4096)]
    outputs: Annotated[tuple[TensorSpec, ...], Length(1, 4096)]


@dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """How a decoder keeps its past: buffers shared with the engine, state inside it, tensors that grow from call to
    call, or (an encoder) not at all.
    """

    layout: Layout
    layers: Annotated[int, Between(0, 256)]
    heads: Annotated[int, Between(0, 1024)]
    head_dim: Annotated[int, Between(0, 2**20)]

    @classmethod
    def of(cls, decoder: StackSpec | None, layout: Layout) -> CacheSpec:
        """The cache of ``decoder``; with none, the layout is ``"none"`` whatever was asked."""
        if decoder is None:
            return cls(layout="none", layers=0, heads=0, head_dim=0)
        return cls(layout=layout, layers=decoder.n_layers, heads=decoder.kv_heads, head_dim=decoder.head_width)


@dataclass(frozen=True, kw_only=True)
class KernelChoice:
    """Which kernel carries a weight matrix of shape ``[K, N]`` (inputs, outputs)."""

    matrix: Name
    shape: Annotated[tuple[Annotated[int, Between(1, 2**31)], ...], Length(2, 2)]
    kernel: _Identifier


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The network as one target runs it at one precision."""

    target: Target
    precision: Precision
    folder: _Identifier
    graphs: Annotated[dict[str, GraphSpec], Length(1, len(signature.GRAPHS))]
    cache: CacheSpec
    kernels: Annotated[tuple[KernelChoice, ...], Length(0, 10_000)] = ()

    def __post_init__(self) -> None:
        refuse(self._contradictions())

    def _contradictions(self) -> Iterator[str]:
        if self.folder != self.name:
            yield f"the folder of variant {self.name} is {self.folder!r}, expected {self.name!r}"
        if unknown := sorted(set(self.graphs) - set(signature.GRAPHS)):
            yield f"variant {self.name} has graphs {unknown}, expected some of {list(signature.GRAPHS)}"

    @property
    def name(self) -> str:
        """``target-precision``, as in ``cpu-int8``."""
        return f"{self.target}-{self.precision}"

    def graph_path(self, graph: str) -> str:
        """Path of a graph file inside the bundle."""
        return f"{self.folder}/{self.graphs[graph].file}"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the bundle: its path with ``/``, its size in bytes and its SHA-256 in hexadecimal."""

    path: _Path
    bytes: Annotated[int, Between(0, MAX_FILE_BYTES)]
    sha256: _Digest


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that ``manifest.json`` says. ``provenance`` needs ``edgewise``, ``checkpoint_sha256`` and ``torch``; where
    the reference is not PyTorch, in place of ``torch`` what it is as ``reference``.

    ``alignment_layer``: the decoder layer, counted from 0, whose cross-attention the ``alignment`` graphs give.
    """

    name: _Identifier
    task: Task
    model: ModelSpec
    max_context: Annotated[int, Between(1, 2**24)]
    generation: Generation | None
    languages: Languages | None
    licence: Licence
    provenance: Annotated[dict[str, Annotated[str, Text(2000)]], Length(3, 100)]
    variants: Annotated[tuple[Variant, ...], Length(1, 32)]
    files: Annotated[tuple[FileEntry, ...], Length(1, 1000)]
    format: Annotated[int, Between(1, FORMAT_VERSION)] = field(default=FORMAT_VERSION)
    alignment_layer: Annotated[int, Between(0, 255)] | None = field(default=None, metadata=LATER)
    chat: ChatSpec | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        refuse([*self._model_contradictions(), *self._variant_contradictions(), *self._file_contradictions()])

    def _model_contradictions(self) -> Iterator[str]:
        model = self.model
        needs = {
            "translate": model.encoder is not None and model.decoder is not None and model.speech is None,
            "transcribe": model.speech is not None,
            "generate": model.encoder is None,
            "fill_mask": model.decoder is None and model.head == "vocabulary" and model.mask_id is not None,
            "classify": model.decoder is None and model.head == "classes" and not model.rates,
            "regress": model.decoder is None and model.head == "classes" and model.rates,
            "tag": model.decoder is None and model.head == "tags",
            "answer": model.decoder is None and model.head == "span" and bool(model.pair_between),
            "embed": model.decoder is None and model.head == "embedding",
        }
        if not needs[self.task]:
            yield f"task {self.task!r} does not fit the stacks and head of the model"
        if (self.generation is None) != (model.decoder is None):
            yield "generation defaults belong to a model with a decoder, and to no other"
        if self.generation:
            yield from self.generation.contradictions(model.vocab_size, self.max_context)
        if self.chat and (self.task != "generate" or max(self.chat.end_ids, default=0) >= model.vocab_size):
            yield f"chat belongs to the task 'generate', and its end_ids ({self.chat.end_ids}) below {model.vocab_size}"
        if self.max_context > model.max_positions:
            yield f"max_context ({self.max_context}) must be at most max_positions ({model.max_positions})"
        layers = model.decoder.n_layers if model.encoder and model.decoder else 0
        if self.alignment_layer is not None and self.alignment_layer >= layers:
            yield f"alignment_layer ({self.alignment_layer}) must be below the {layers} layers that read a source"
        made_by = "reference" if "reference" in self.provenance else "torch"
        if absent := {"edgewise", "checkpoint_sha256", made_by} - set(self.provenance):
            yield f"provenance lacks {', '.join(sorted(absent))}"

    def _variant_contradictions(self) -> Iterator[str]:
        for name, count in Counter(v.name for v in self.variants).items():
            if count > 1:
                yield f"variant {name} is given {count} times"
        for variant in self.variants:
            cache = CacheSpec.of(self.model.decoder, variant.cache.layout)
            growing = cache.layout == "growing" and (variant.target != "cpu" or signature.DECODER not in variant.graphs)
            if growing:
                yield f"variant {variant.name} has a growing cache, which belongs to target cpu and a graph 'decoder'"
            if variant.cache != cache or (self.model.decoder and cache.layout == "none"):
                yield f"the cache of variant {variant.name} is {variant.cache}, expected that of the decoder: {cache}"
            if self.model.encoder and signature.ENCODER not in variant.graphs:
                yield f"variant {variant.name} lacks the graph 'encoder'"
            if self.model.decoder and not {signature.DECODER, signature.STEP} & set(variant.graphs):
                yield f"variant {variant.name} lacks the graph 'decoder' or 'step'"
            if (signature.ALIGNMENT in variant.graphs) != (self.alignment_layer is not None):
                layer = self.alignment_layer
                yield f"variant {variant.name} and alignment_layer {layer}: a graph 'alignment' needs both"

    def _file_contradictions(self) -> Iterator[str]:
        for path, count in Counter(f.path.casefold() for f in self.files).items():
            if count > 1:
                yield f"file {path} is listed {count} times"
        listed = {f.path for f in self.files}
        graphs = {v.graph_path(graph) for v in self.variants for graph in v.graphs}
        quantized = {quantized_file(v.name) for v in self.variants if v.precision in RECORDED}
        chat = {CHAT_TEMPLATE_FILE} if self.chat else set()
        if absent := ({TOKENIZER_FILE, CASES_FILE} | graphs | quantized | chat) - listed:
            yield f"files lacks {', '.join(sorted(absent))}"
        if SOURCE_TOKENIZER_FILE in listed and self.model.source_vocab_size is None:
            yield f"files lists {SOURCE_TOKENIZER_FILE}, and the model has one vocabulary"
        if MANIFEST_FILE in listed:
            yield f"files lists {MANIFEST_FILE}, which cannot hold its own hash"

    def file(self, path: str) -> FileEntry | None:
        """The entry of ``path``, or ``None`` where it is not listed."""
        return next((f for f in self.files if f.path == path), None)


def quantized_file(variant: str) -> str:
    """Where a bundle keeps the quantized reference of a variant."""
    return f"reference/{variant}.json"


def read_manifest(path: Path) -> Manifest:
    """Read and check a ``manifest.json``.

    Raises:
        BundleFormatError: missing, not JSON, of a newer format, or with fields unknown, missing, mistyped or absurd.
    """
    return manifest_from_json(load_json(path, MAX_MANIFEST_BYTES), str(path))


def manifest_from_json(data: Any, where: str = MANIFEST_FILE) -> Manifest:
    """Check parsed JSON and build the manifest; ``where`` begins the message.

    Raises:
        BundleFormatError: as :func:`read_manifest`.
    """
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT_VERSION:
        raise BundleFormatError(
            f"{where}: bundle format {shown(version)} is newer than this edgewise reads ({FORMAT_VERSION}): "
            "upgrade edgewise or export again"
        )
    return from_json(Manifest, data, where)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` whole or not at all, and only what :func:`read_manifest` takes back.

    Raises:
        BundleFormatError: the manifest breaks a rule of its own schema.
    """
    raw = dump_json(to_json(manifest))
    if len(raw) > MAX_MANIFEST_BYTES:
        raise_faults(MANIFEST_FILE, [f"{len(raw)} bytes, expected at most {MAX_MANIFEST_BYTES}"])
    manifest_from_json(parse_json(raw, MANIFEST_FILE))
    write_atomic(folder / MANIFEST_FILE, raw)


def write_atomic(path: Path, data: bytes) -> None:
    """Write by way of a temporary file and a rename: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_entries(folder: Path, paths: Sequence[str] | None = None) -> tuple[FileEntry, ...]:
    """Size and SHA-256 of ``paths`` (by default every file in ``folder`` but the manifest), in order of path."""
    if paths is None:
        found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        paths = [path for path in found if path != MANIFEST_FILE]
    return tuple(_entry(folder / path, path) for path in sorted(paths))


def _entry(file: Path, path: str) -> FileEntry:
    return FileEntry(path=path, bytes=file.stat().st_size, sha256=file_digest(file))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
