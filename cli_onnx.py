"""``edgewise export`` of ONNX graphs of another exporter, which are there or are made first."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_decoding import LANGUAGES
from .errors import MissingExtraError

if TYPE_CHECKING:
    from .pipeline_output import BuildReport


def export_graphs(
    arguments: argparse.Namespace, targets: Sequence[str], progress: Callable[[int, int], None]
) -> BuildReport:
    """Make the bundle; ``targets`` where none is named. Nothing is quantized or judged, and torch is not needed.

    Raises:
        MissingExtraError: onnx_ir is not installed.
        EdgewiseError: as :func:`edgewise.pipeline_onnx.export_onnx_folder`.
    """
    _check(arguments, f"{arguments.source} holds ONNX graphs")
    if arguments.exporter != "edgewise":
        arguments.parser.error(f"{arguments.source} holds ONNX graphs already: leave out --exporter")
    from .pipeline_onnx import export_onnx_folder

    return export_onnx_folder(
        arguments.source, arguments.output, arguments.target or targets, arguments.precision, progress
    )


def export_by_optimum(
    arguments: argparse.Namespace, targets: Sequence[str], progress: Callable[[int, int, str], None]
) -> BuildReport:
    """Make the bundle of graphs that optimum makes of a checkpoint, in a folder that is gone afterwards.

    Raises:
        MissingExtraError: onnx_ir or optimum is not installed.
        EdgewiseError: as :func:`edgewise.export.onnx_folder.optimum.export_with_optimum` and :func:`export_graphs`.
    """
    _check(arguments, "--exporter optimum makes ONNX graphs")
    from .export.onnx_folder.optimum import export_with_optimum
    from .pipeline_onnx import export_onnx_folder

    with tempfile.TemporaryDirectory(prefix="edgewise-") as place:
        folder = Path(place) / (arguments.source.resolve().name or "model")
        exporter = export_with_optimum(arguments.source, folder, progress)
        return export_onnx_folder(
            folder,
            arguments.output,
            arguments.target or targets,
            arguments.precision,
            lambda done, total: progress(done, total, ""),
            exporter,
        )


def _check(arguments: argparse.Namespace, why: str) -> None:
    """Options that are not for graphs, and the library that reads them.

    Raises:
        MissingExtraError: onnx_ir is not installed.
    """
    from importlib.util import find_spec

    options = {"family": "--family", "eval": "--eval", **LANGUAGES}
    if given := [option for name, option in options.items() if getattr(arguments, name) is not None]:
        arguments.parser.error(f"{given[0]} is for checkpoints, and {why}")
    if find_spec("onnx_ir") is None:
        raise MissingExtraError("graphs are read with onnx_ir, not installed here: pip install 'edgewise[onnx]'")
