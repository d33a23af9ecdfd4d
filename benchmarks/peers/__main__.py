"""``python -m edgewise.benchmarks.peers``: prepare, run, report.

The variables ``PEERS`` and ``MULTI30K`` name folders.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...errors import EdgewiseError
from .catalogue import systems_of
from .chart import draw, draw_floors
from .check import check
from .places import Places
from .prepare import Preparation
from .prepare_text import TextPreparation
from .prepare_vectors import VectorPreparation
from .processes import profile_cell
from .quality import judge
from .report import tables
from .run import cells, measure
from .workloads import WORKLOADS, Kind

_PREPARATIONS: dict[Kind, type[Preparation]] = {
    "translate": Preparation,
    "generate": TextPreparation,
    "embed": VectorPreparation,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except EdgewiseError as error:
        print(f"peers: error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edgewise.benchmarks.peers", description="Compare with what a user would pick instead."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("prepare", help="convert the models, and check that every system computes the same")
    one.add_argument("workloads", nargs="*", default=list(WORKLOADS), metavar="WORKLOAD", help="default: all")
    one.set_defaults(command=_prepare)
    one = commands.add_parser("run", help="measure cells, and print the tables")
    one.add_argument("cells", nargs="*", default=["*"], help="patterns of names, such as 's1/t1/*' (default: all)")
    one.add_argument("--rounds", type=_count, default=2, help="processes of every cell (default: 2)")
    one.add_argument("--repeats", type=_count, default=4, help="timed passes of every process (default: 4)")
    one.add_argument(
        "--output",
        type=Path,
        default=Path("peers.json"),
        help="where to write it all, and what a stopped run goes on with (peers.json)",
    )
    one.set_defaults(command=_run)
    one = commands.add_parser("profile", help="where the time of edgewise's cells goes, by kind of operator")
    one.add_argument("cells", nargs="*", default=["s?/t1/*/edgewise-*"], help="as for run; others are left out")
    one.set_defaults(command=_profile)
    one = commands.add_parser("report", help="print the tables of a run again, and draw its chart")
    one.add_argument("results", type=Path, help="what `run` wrote")
    one.add_argument("--chart", type=Path, help="draw the ratios there, .svg or .png")
    one.add_argument("--roofline", type=Path, help="draw the distances to the roofline there")
    one.set_defaults(command=_report)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _prepare(arguments: argparse.Namespace) -> None:
    places = Places.of_environment()
    for name in arguments.workloads:
        workload = WORKLOADS[name]
        _PREPARATIONS[workload.kind](places, workload, _say).run()
        (check if workload.kind == "translate" else judge)(places, workload, _say)


def _run(arguments: argparse.Namespace) -> None:
    chosen, output = cells(arguments.cells), arguments.output
    earlier = json.loads(output.read_text()) if output.exists() else None
    for found in measure(Places.of_environment(), chosen, arguments.rounds, arguments.repeats, _say, earlier):
        part = output.with_name(f"part-{output.name}")
        part.write_text(json.dumps(found, indent=1))  # after every process: a run may be stopped, and goes on here
        part.replace(output)
    print(tables(found))


def _report(arguments: argparse.Namespace) -> None:
    found = json.loads(arguments.results.read_text())
    print(tables(found))
    if arguments.chart:
        draw(found, arguments.chart)
    if arguments.roofline:
        draw_floors(found, arguments.roofline)


def _profile(arguments: argparse.Namespace) -> None:
    places = Places.of_environment()
    for cell in cells(arguments.cells):
        workload, system = WORKLOADS[cell.setting.workload], systems_of(cell.setting.workload)[cell.system]
        if not system.adapter.endswith("edgewise") or system.settings["target"] != "cpu":
            continue  # the others' engines are opened elsewhere, or are not ONNX Runtime
        sources = places.file(workload.name, workload.sources_file(cell.setting.batch))
        print(profile_cell(places, system, cell.setting, sources).table(str(cell)), end="\n\n")


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
