"""The ratios of a run as bars: one panel a setting, one bar a system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import InputError, MissingExtraError
from .report import floor_of
from .results import Measured, Setting
from .systems import OURS

SLOWER, FASTER, EDGEWISE = "#5b8db8", "#c26d5b", "#3a3a3a"


def draw(found: dict[str, Any], file: Path) -> None:
    """Write ``file``, an SVG or PNG by its name: times relative to edgewise, with the range of the rounds.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels = _panels(found)
    label = f"time relative to {OURS}; left of the line is faster, whiskers: single rounds"
    _draw(panels, _bars, label, file)


def draw_floors(found: dict[str, Any], file: Path) -> None:
    """Write ``file``, an SVG or PNG by its name: times relative to the least that this machine needs.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    _draw(_floor_panels(found), _floor_bars, "time relative to the roofline of a system's own weights", file)


def _draw(
    panels: list[tuple[str, list[Any]]], bars: Callable[[Any, str, list[Any]], None], label: str, file: Path
) -> None:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("the chart needs matplotlib: pip install 'edgewise[export]'") from error
    mpl.use("agg")
    from matplotlib import pyplot as plt

    if not panels:
        raise InputError("there is nothing to draw: the run has no cell of edgewise, or was stopped before its end")
    height = 1.0 + sum(0.5 + 0.25 * len(rows) for _, rows in panels)
    heights = [1 + len(rows) for _, rows in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, height), squeeze=False, sharex=True, height_ratios=heights, layout="constrained"
    )
    for axis, (title, rows) in zip(axes[:, 0], panels, strict=True):
        bars(axis, title, rows)
    axes[-1, 0].set_xlabel(label)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def _panels(found: dict[str, Any]) -> list[tuple[str, list[tuple[Measured, Measured]]]]:
    """Title and rows of every setting in which ours was measured; each row a system beside ours, slowest first."""
    results = [part for data in found["results"] for part in Measured.from_json(data).parts()]
    timed = [m for m in results if any(answer.seconds for answer in m.answers)]
    panels = []
    for ours in timed:
        if ours.cell.system == OURS:
            rows = [(m, ours) for m in timed if m.cell.setting == ours.cell.setting]
            panels.append((_title(ours.cell.setting), sorted(rows, key=lambda row: -row[0].seconds)))
    return panels


def _title(setting: Setting) -> str:
    search = "greedy" if setting.beam_size == 1 else f"beam {setting.beam_size}"
    part = {"": "", "first": ", until the first token", "later": ", later tokens"}[setting.part]
    return f"{setting.workload.upper()}, batch {setting.batch}, {search}{part}, threads: {setting.threads}"


def _bars(axis: Any, title: str, rows: list[tuple[Measured, Measured]]) -> None:
    """Bars that begin at edgewise's time: on a logarithmic axis there is no zero to begin at."""
    values = [measured.ratio(ours) for measured, ours in rows]
    spans = [(*measured.ratios(ours), value) for (measured, ours), value in zip(rows, values, strict=True)]
    errors = [
        [value - min(span) for value, span in zip(values, spans, strict=True)],
        [max(span) - value for value, span in zip(values, spans, strict=True)],
    ]
    labels = [measured.cell.system + measured.mark for measured, _ in rows]
    names = [f"{label}  {value:.2f}" for label, value in zip(labels, values, strict=True)]
    colours = [_colour(measured, ours) for measured, ours in rows]
    axis.barh(
        names, [value - 1.0 for value in values], left=1.0, xerr=errors, color=colours, ecolor="#777777", capsize=2
    )
    axis.axvline(1.0, color=EDGEWISE, linewidth=1.0)
    _logarithmic(axis, [0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
    axis.set_title(title, loc="left", fontsize=9)


def _floor_panels(found: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """Title and rows of every setting whose floor is known; each row a system and its distance, the farthest first."""
    panels: dict[str, list[tuple[Measured, float]]] = {}
    for measured in (part for data in found["results"] for part in Measured.from_json(data).parts()):
        floor = floor_of(found, measured) if any(answer.seconds for answer in measured.answers) else None
        if floor:
            panels.setdefault(_title(measured.cell.setting), []).append((measured, measured.seconds / floor))
    return [(title, sorted(rows, key=lambda row: -row[1])) for title, rows in panels.items()]


def _floor_bars(axis: Any, title: str, rows: list[tuple[Measured, float]]) -> None:
    names = [f"{measured.cell.system}{measured.mark}  {value:.1f}" for measured, value in rows]
    colours = [EDGEWISE if measured.cell.system.startswith("edgewise") else SLOWER for measured, _ in rows]
    axis.barh(names, [value - 1.0 for _, value in rows], left=1.0, color=colours)
    _logarithmic(axis, [1, 2, 5, 10, 20, 50])
    axis.set_title(title, loc="left", fontsize=9)


def _logarithmic(axis: Any, ticks: list[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _colour(measured: Measured, ours: Measured) -> str:
    if measured.cell.system == OURS:
        return EDGEWISE
    return SLOWER if measured.ratio(ours) >= 1 else FASTER
