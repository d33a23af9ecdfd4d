"""The rounds: every cell in a process of its own, all cells in every round, in turn forwards and backwards."""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from ...errors import EngineError, InputError, MissingExtraError
from ...runtime.cpu import available_cpus
from .catalogue import systems_of
from .cell import Tokens, requests_of
from .floors import Work, floors_json, least_work
from .places import Places, folder_bytes
from .prepare import NETWORK, REFERENCE, captions
from .processes import run_cell
from .quality import quality_of
from .results import Cell, Measured, Setting, agreement
from .roofline import ceilings
from .systems import System
from .workloads import S2, WORKLOADS

Say = Callable[[str], None]
THREADS = (1, 2)
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
"""Processor features that decide which int8 kernels a system has."""


def cells(patterns: Sequence[str]) -> list[Cell]:
    """All cells whose name matches a pattern, such as ``s1/t1/*``; systems marked ``extra`` only where it names them.

    Raises:
        InputError: no cell matches a pattern.
    """
    found: dict[str, Cell] = {}
    for pattern in patterns:
        matching = [cell for cell in _all_cells() if fnmatchcase(str(cell), pattern)]
        matching = [cell for cell in matching if not _system(cell).extra or cell.system in pattern]
        if not matching:
            raise InputError(f"no cell is called {pattern!r}, expected a pattern of names such as {_all_cells()[0]}")
        found |= {str(cell): cell for cell in matching}
    return list(found.values())


def _system(cell: Cell) -> System:
    return systems_of(cell.setting.workload)[cell.system]


def _all_cells() -> list[Cell]:
    return [
        Cell(setting=Setting(workload=workload.name, threads=threads, batch=batch, beam_size=beam_size), system=system)
        for workload in WORKLOADS.values()
        for threads, batch, beam_size, system in product(
            THREADS, workload.batches, workload.beams, systems_of(workload.name)
        )
    ]


def measure(
    places: Places,
    chosen: Sequence[Cell],
    rounds: int,
    repeats: int,
    say: Say,
    earlier: dict[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Run the rounds, and give after each process what has been found so far.

    What a cell failed with stands in its result, and the others go on. ``earlier``: what a run that was stopped had
    found; its answers are kept, what failed is tried again.

    Raises:
        InputError: a chosen cell needs a data set, and nobody said where it is; or ``earlier`` is of another machine or
            other passes.
    """
    if any(cell.setting.workload == S2.name for cell in chosen):
        captions(places, "de")  # they judge the first round: better missed now than then
    kept = _kept(earlier, repeats) if earlier else {}
    results = [_begin(places, cell, kept.pop(str(cell), None)) for cell in chosen]
    for round_ in range(rounds):
        for measured in results if round_ % 2 == 0 else reversed(results):
            if measured.failure is None and len(measured.answers) <= round_:
                say(f"round {round_ + 1} of {rounds}: {measured.cell}")
                _measure_one(places, measured, repeats)
                yield _found(rounds, repeats, [*results, *kept.values()], earlier or {})
    found = _found(rounds, repeats, [*results, *kept.values()], earlier or {})
    say("what this machine reads and multiplies")
    threads = sorted({measured.cell.setting.threads for measured in results})
    known = {one["threads"]: one for one in found["ceilings"]}
    known |= {count: dataclasses.asdict(ceilings(count)) for count in threads}
    yield found | {
        "ceilings": [known[count] for count in sorted(known)],
        "floors": least_works(places, [*results, *kept.values()]),
    }


def _kept(earlier: dict[str, Any], repeats: int) -> dict[str, Measured]:
    """The cells of an earlier run, by name."""
    here = machine()
    if earlier["repeats"] != repeats or earlier["machine"] != here:
        raise InputError(
            f"the earlier run has {earlier['repeats']} passes a process on {earlier['machine']['processor']}, "
            f"expected {repeats} on {here['processor']}: name another --output, or remove that file"
        )
    results = (Measured.from_json(data) for data in earlier["results"])
    return {str(measured.cell): measured for measured in results}


def _found(rounds: int, repeats: int, results: Sequence[Measured], earlier: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "rounds": rounds,
        "repeats": repeats,
        "results": [measured.to_json() for measured in results],
        "ceilings": earlier.get("ceilings", []),
        "floors": earlier.get("floors", []),
    }


def _begin(places: Places, cell: Cell, earlier: Measured | None) -> Measured:
    system, workload = _system(cell), cell.setting.workload
    try:
        size = folder_bytes(places.model(workload, system), system)
    except MissingExtraError as error:
        return Measured(cell=cell, model_bytes=0, failure=str(error))
    judged = quality_of(places, workload, cell.system)
    if earlier is None:
        return Measured(cell=cell, model_bytes=size, quality=judged)
    return dataclasses.replace(earlier, model_bytes=size, quality=judged or earlier.quality, failure=None)


def _measure_one(places: Places, measured: Measured, repeats: int) -> None:
    """One process; the first of a translating cell decodes all sources, for its quality."""
    setting = measured.cell.setting
    workload = WORKLOADS[setting.workload]
    sources = places.file(workload.name, workload.sources_file(setting.batch))
    whole = workload.kind == "translate" and not measured.quality
    try:
        answer = run_cell(places, _system(measured.cell), setting, sources=sources, repeats=repeats, whole=whole)
    except (EngineError, MissingExtraError) as error:
        measured.failure = str(error)
        return
    measured.answers.append(dataclasses.replace(answer, outputs=None))
    if answer.outputs is not None:
        measured.quality = _quality(places, setting, answer.outputs)


def _quality(places: Places, setting: Setting, outputs: Any) -> dict[str, float]:
    """Of translations."""
    reference = json.loads(places.file(setting.workload, REFERENCE).read_text())
    found = {"agree": agreement(outputs, reference[str(setting.beam_size)])}
    return found | ({"BLEU": bleu(places, outputs)} if setting.workload == S2.name else {})


def bleu(places: Places, outputs: Tokens) -> float:
    """Cased sacreBLEU of translations of the test set."""
    from sacrebleu.metrics.bleu import BLEU

    from ...runtime.tokenizer import Tokenizer

    tokenizer = Tokenizer.open(places.checkpoint(S2.name) / "tokenizer.json")
    texts = [tokenizer.decode(tokens) for tokens in outputs]
    return float(BLEU().corpus_score(texts, [captions(places, "de")]).score)


def least_works(places: Places, results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Of every setting that was measured: what a request cannot do without."""
    settings = dict.fromkeys(p.cell.setting for m in results if m.answers for p in m.parts())
    return [floors_json(setting, _least_work(places, setting)) for setting in settings]


def _least_work(places: Places, setting: Setting) -> list[Work]:
    workload = WORKLOADS[setting.workload]
    network = json.loads(places.file(workload.name, NETWORK).read_text())
    sources: Tokens = json.loads(places.file(workload.name, workload.sources_file(setting.batch)).read_text())
    steps = (workload.exact_tokens or 0) - (setting.part == "later")
    requests = requests_of(sources, setting.batch)
    if workload.kind == "translate" and not steps:
        reference = json.loads(places.file(workload.name, REFERENCE).read_text())[str(setting.beam_size)]
        longest = [max(len(reference[place]) + 1 for place in request) for request in requests]
        steps = round(statistics.fmean(longest))
    source = statistics.fmean(max(len(sources[place]) for place in request) for request in requests)
    return least_work(network, setting, source, steps)


def machine() -> dict[str, Any]:
    """Processor, what of it is ours, and system."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    except OSError:
        facts = {}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "features": [flag for flag in FLAGS if flag in flags],
        "processors": available_cpus(),
        "system": platform.platform(terse=True),
    }
