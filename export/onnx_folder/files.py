"""Which graphs a folder has, by the names that exporters give them. No library is needed to ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError
from ...models.files import CONFIG
from ...runtime.bundle.manifest import Precision

ENCODER, DECODER, WITH_PAST, MERGED, ALONE = (
    "encoder_model",
    "decoder_model",
    "decoder_with_past_model",
    "decoder_model_merged",
    "model",
)
SUBFOLDER = "onnx"
SUFFIXES: dict[str, Precision] = {
    "": "fp32",
    "_fp16": "fp32",
    **dict.fromkeys(("_quantized", "_int8", "_uint8"), "int8-fast"),
    **dict.fromkeys(("_q4", "_q4f16"), "int4"),
}
"""What follows a graph's name, the first of a precision going before the others. Numbers of float16 are made wide.
Dynamic quantization has one scale for all activations of a matrix product."""
REFUSED = {"_bnb4": "four-bit floats (NF4 or FP4), which no precision of a bundle has"}
"""What else is recognised, and what it holds."""
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True, kw_only=True)
class GraphFiles:
    """The graphs of one precision: an encoder and its decoder, in one file or in two, or one graph alone."""

    precision: Precision
    files: dict[str, Path]

    @property
    def paired(self) -> bool:
        """Whether an encoder stands beside a decoder."""
        return ENCODER in self.files


def is_onnx_folder(source: Path) -> bool:
    """Whether ``source`` has such graphs and a ``config.json``, and no weights that could be exported themselves.

    A folder ``onnx`` inside one with a ``config.json`` is one, whatever lies beside it.
    """
    if not source.is_dir() or (source / "manifest.json").is_file():
        return False
    own = (source / CONFIG).is_file()
    if own and any((source / name).is_file() for name in _WEIGHTS):
        return False
    return bool(_graph_folder(source)) and (settings_folder(source) / CONFIG).is_file()


def settings_folder(source: Path) -> Path:
    """Where ``config.json`` and the tokenizer lie: in the folder, or above one called ``onnx``."""
    above = source.name == SUBFOLDER and not (source / CONFIG).is_file()
    return source.parent if above else source


def find_graphs(source: Path) -> tuple[GraphFiles, ...]:
    """The graphs of every precision that is there, each precision once.

    Raises:
        CheckpointError: an encoder without a whole decoder, or no graphs.
    """
    folder, found = _graph_folder(source), dict[str, GraphFiles]()
    for suffix, precision in SUFFIXES.items():
        files = dict(_named(folder, suffix)) if folder else {}
        if files and precision not in found:
            found[precision] = GraphFiles(precision=precision, files=_whole(files, suffix, folder or source))
    if not found and (refused := _refused(folder)):
        raise CheckpointError(f"{folder} has {refused}: take the graphs of another precision, such as model_q4.onnx")
    if not found:
        raise CheckpointError(
            f"{source} has no graphs {ENCODER}.onnx or {ALONE}.onnx, in it or in {SUBFOLDER}/: export it again"
        )
    return tuple(found.values())


def _graph_folder(source: Path) -> Path | None:
    for folder in (source, source / SUBFOLDER):
        if any(dict(_named(folder, suffix)) for suffix in (*SUFFIXES, *REFUSED)):
            return folder
    return None


def _refused(folder: Path | None) -> str:
    """Graphs that cannot be read, and why; nothing where there are none."""
    found = ((file.name, what) for suffix, what in REFUSED.items() if folder for _, file in _named(folder, suffix))
    return "; ".join(f"{name} with {what}" for name, what in found)


def _named(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    for name in (ENCODER, DECODER, WITH_PAST, MERGED, ALONE):
        if (file := folder / f"{name}{suffix}.onnx").is_file():
            yield name, file


def _whole(files: dict[str, Path], suffix: str, folder: Path) -> dict[str, Path]:
    """Those that are needed.

    Raises:
        CheckpointError: they do not make a network.
    """
    two = {DECODER, WITH_PAST} <= files.keys()
    if ENCODER in files and two:
        return {name: files[name] for name in (ENCODER, DECODER, WITH_PAST)}
    if ENCODER in files and MERGED in files:
        return {name: files[name] for name in (ENCODER, MERGED)}
    for name in (ALONE, MERGED, WITH_PAST):
        if name in files and ENCODER not in files:
            return {ALONE: files[name]}
    there = ", ".join(file.name for file in files.values())
    raise CheckpointError(
        f"{folder} has {there}: expected {ENCODER}{suffix}.onnx beside {MERGED}{suffix}.onnx, or beside "
        f"{DECODER}{suffix}.onnx and {WITH_PAST}{suffix}.onnx; export it again with a past (a task that ends in "
        "-with-past)"
    )
