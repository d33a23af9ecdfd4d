"""The ratios of a run as bars: one panel a setting, one bar a system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import MissingExtraError
from .results import Measured
from .systems import OURS

SLOWER, FASTER, EDGEWISE = "#5b8db8", "#c26d5b", "#3a3a3a"


def draw(found: dict[str, Any], file: Path) -> None:
    """Write ``file``, an SVG or PNG by its name: times relative to edgewise, with the range of the rounds.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("the chart needs matplotlib: pip install 'edgewise[export]'") from error
    mpl.use("agg")
    from matplotlib import pyplot as plt

    panels = _panels(found)
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 0.6 + 2.4 * len(panels)), squeeze=False)
    for axis, (title, rows) in zip(axes[:, 0], panels, strict=True):
        _bars(axis, title, rows)
    axes[-1, 0].set_xlabel("time relative to edgewise int8: to the left of the line is faster")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def _panels(found: dict[str, Any]) -> list[tuple[str, list[tuple[Measured, Measured]]]]:
    """Title and rows of every setting in which ours was measured; each row a system beside ours, slowest first."""
    results = [Measured.from_json(data) for data in found["results"]]
    timed = [m for m in results if any(answer.seconds for answer in m.answers)]
    panels = []
    for ours in timed:
        if ours.cell.system == OURS:
            rows = [(m, ours) for m in timed if m.cell.setting == ours.cell.setting]
            panels.append((str(ours.cell.setting), sorted(rows, key=lambda row: -row[0].seconds)))
    return panels


def _bars(axis: Any, title: str, rows: list[tuple[Measured, Measured]]) -> None:
    values = [measured.ratio(ours) for measured, ours in rows]
    spans = [measured.ratios(ours) for measured, ours in rows]
    low = [max(0.0, value - min(span)) for value, span in zip(values, spans, strict=True)]
    high = [max(0.0, max(span) - value) for value, span in zip(values, spans, strict=True)]
    colours = [_colour(measured, ours) for measured, ours in rows]
    names = [measured.cell.system for measured, _ in rows]
    bars = axis.barh(names, values, xerr=[low, high], color=colours, ecolor="#888888", capsize=2)
    axis.bar_label(bars, labels=[f"{value:.2f}" for value in values], padding=6, fontsize=8)
    axis.axvline(1.0, color=EDGEWISE, linewidth=0.8)
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.set_title(title, loc="left", fontsize=9)


def _colour(measured: Measured, ours: Measured) -> str:
    if measured.cell.system == OURS:
        return EDGEWISE
    return SLOWER if measured.ratio(ours) >= 1 else FASTER
