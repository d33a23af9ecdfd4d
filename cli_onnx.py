"""``edgewise export`` of a folder that holds the ONNX graphs of another exporter."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
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
    from importlib.util import find_spec

    options = {"family": "--family", "eval": "--eval", **LANGUAGES}
    if given := [option for name, option in options.items() if getattr(arguments, name) is not None]:
        arguments.parser.error(f"{given[0]} is for checkpoints, and {arguments.source} holds ONNX graphs")
    if find_spec("onnx_ir") is None:
        raise MissingExtraError("graphs are read with onnx_ir, not installed here: pip install 'edgewise[onnx]'")
    from .pipeline_onnx import export_onnx_folder

    return export_onnx_folder(
        arguments.source, arguments.output, arguments.target or targets, arguments.precision, progress
    )
