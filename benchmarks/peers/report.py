"""The tables of a run: medians, ratios to edgewise, quality, cold start, memory, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .catalogue import systems_of
from .floors import Ceilings, Work
from .results import Measured, Setting
from .systems import OURS
from .workloads import WORKLOADS

_FRONT = ("system", "speed", "x edgewise", "rounds", "x floor", "tokens/s", "cores")
_BACK = ("import", "load", "first", "cold s", "MB", "model MB")
_FORMATS = {"agree": "{:.1%}", "BLEU": "{:.2f}", "perplexity": "{:.2f}", "cosine": "{:.5f}", "Spearman": "{:.4f}"}
GOAL = 1.2
"""Times as fast as the best other system of equal accuracy."""
COLD = ("start", "imported", "loaded", "first_output")


def tables(found: dict[str, Any]) -> str:
    """A table a setting, the fastest system first."""
    results = [part for data in found["results"] for part in Measured.from_json(data).parts()]
    settings = list(dict.fromkeys(measured.cell.setting for measured in results))
    blocks = [_machine(found)]
    for setting in settings:
        own = [measured for measured in results if measured.cell.setting == setting]
        blocks.append("\n".join([_title(setting), *_table(found, own), *_roofline(found, setting)]))
    return "\n\n".join([*blocks, *_notes(found)])


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return "{processor}, {processors} processors, {0}; {system}".format(" ".join(machine["features"]), **machine)


def _title(setting: Setting) -> str:
    workload = WORKLOADS[setting.workload]
    search = "greedy" if setting.beam_size == 1 else f"beam {setting.beam_size}"
    unit = "milliseconds a request" if workload.unit == "ms" else "sentences a second"
    unit = {"first": "milliseconds to the first token", "later": "later tokens a second"}.get(setting.part, unit)
    threads = f"{setting.threads} thread{'s' if setting.threads > 1 else ''}"
    return f"{workload.name.upper()}, {workload.title}\n{threads}, batch {setting.batch}, {search}; speed: {unit}"


def _table(found: dict[str, Any], results: Sequence[Measured]) -> Iterator[str]:
    """Aligned columns, then the failures."""
    ours = next((m for m in results if m.cell.system == OURS and _timed(m)), None)
    measured = sorted((m for m in results if _timed(m)), key=lambda m: m.seconds)
    names = WORKLOADS[results[0].cell.setting.workload].quality
    lines = [[*_FRONT, *names, *_BACK], *(_cells(m, ours, names, floor_of(found, m)) for m in measured)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
    yield from _goal(measured)
    for m in results:
        if m.failure:
            yield f"{m.cell.system}: failed: {m.failure}"


def _goal(measured: Sequence[Measured]) -> Iterator[str]:
    """The best of edgewise beside the best of the others, the fastest of ``measured`` first; marked ones left out."""
    counting = [m for m in measured if m.counts]
    ours, others = ([m for m in counting if m.cell.system.startswith("edgewise") is own] for own in (True, False))
    workload = WORKLOADS[measured[0].cell.setting.workload] if measured else None
    bounds = [f"{k} below {v}" for k, v in workload.floors.items()] if workload else []
    bounds += [f"{k} above {v}" for k, v in workload.most.items()] if workload else []
    if ours and others:
        ratio = others[0].seconds / ours[0].seconds
        yield (
            f"{ours[0].cell.system} is {ratio:.2f} times as fast as {others[0].cell.system}, the best other system"
            f"{' of equal accuracy' if bounds else ''}: the goal of {GOAL} is {'met' if ratio >= GOAL else 'missed'}"
        )
    if len(counting) < len(measured):
        yield "* is less accurate, out of the comparison: " + ", ".join(bounds)
    if any(m.mark == " ?" for m in measured):
        yield "? was not judged, so it is compared with as if it were as accurate"


def _timed(measured: Measured) -> bool:
    return any(answer.seconds for answer in measured.answers)


def _cells(measured: Measured, ours: Measured | None, names: Sequence[str], floor: float | None) -> list[str]:
    ratios = measured.ratios(ours) if ours else []
    return [
        measured.cell.system + measured.mark,
        f"{measured.speed:.{1 if measured.speed >= 10 else 2}f}",
        f"{measured.ratio(ours):.2f}" if ours else "-",
        f"{min(ratios):.2f}-{max(ratios):.2f}" if ratios else "-",
        f"{measured.seconds / floor:.1f}" if floor else "-",
        f"{measured.tokens_per_second:.0f}",
        f"{measured.cores:.2f}",
        *(_FORMATS[name].format(measured.quality[name]) if name in measured.quality else "-" for name in names),
        f"{measured.cold('imported'):.2f}",
        f"{measured.cold('loaded'):.2f}",
        f"{measured.cold('first_output'):.2f}",
        f"{measured.cold(*COLD):.2f}",
        f"{measured.peak_memory_bytes / 1e6:.0f}",
        f"{measured.model_bytes / 1e6:.1f}",
    ]


def floor_of(found: dict[str, Any], measured: Measured) -> float | None:
    """The least seconds of a pass of this cell, at the bits of its own weights; ``None`` where nothing was counted."""
    setting = measured.cell.setting
    known = [one for one in found.get("ceilings", []) if one["threads"] == setting.threads]
    counted = [one for one in found.get("floors", []) if Setting(**one["setting"]) == setting]
    if not known or not counted:
        return None
    work = [Work(**step) for step in counted[0]["work"]]
    bits = systems_of(setting.workload)[measured.cell.system].bits
    return Ceilings(**known[0]).seconds(work, bits) * measured.answers[0].sentences / setting.batch


def _roofline(found: dict[str, Any], setting: Setting) -> Iterator[str]:
    """What an int8 request must read and multiply, and how fast that goes here."""
    known = [Ceilings(**one) for one in found.get("ceilings", []) if one["threads"] == setting.threads]
    for one in found.get("floors", []):
        if Setting(**one["setting"]) == setting and known:
            for step in (Work(**step) for step in one["work"]):
                size = step.weights + step.cache
                yield (
                    f"roofline of int8: {step.times:g} x ({step.weights / 1e6:.1f} MB of weights and "
                    f"{step.cache / 1e6:.1f} MB of caches at {known[0].rate(size) / 1e9:.1f} GB/s, from memory "
                    f"{known[0].rate(1e12) / 1e9:.1f} GB/s; {step.products / 1e9:.2f} G products at "
                    f"{known[0].int8 / 1e9:.0f} G/s) = {1e3 * known[0].seconds([step], 8):.2f} ms"
                )


def _notes(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Medians of {found['rounds']} rounds of {found['repeats']} passes; every round of a system is a process of "
        "its own, and begins with a pass that is not timed.\n"
        "x edgewise: its time over that of edgewise-int8, below 1 where it is faster; rounds: the least and the most "
        "of it within one round.\n"
        "x floor: its time over the least that reading its weights once a step and its caches, or multiplying, takes "
        "on this machine: see roofline, counted there for int8.\n"
        "cores: processor time over time, while passes were timed: under 1 the machine was busy with other things.\n"
        "agree: of the tokens of PyTorch in float32, the share before the first that differs. Search rules differ: "
        "with beams also exact systems differ. "
        "Random weights (S1) are never sure of a token, so there it says little of quality; S2 has BLEU.\n"
        "perplexity: of the first 2048 tokens of WikiText-2's test part, in four texts, where the system tells.\n"
        "cosine: mean of the cosines with PyTorch's vectors of the sentences of STS-B's development set; Spearman: "
        "rank correlation of cosines within its pairs with people's scores.\n"
        "import, load, first: seconds to import the library, open the model and answer the first request; cold s: "
        "all of it, from the birth of the process.\n"
        "MB: peak memory of the process; model MB: the files it opens, in 10^6 bytes."
    )
    versions = sorted(
        {f"{k} {v}" for data in found["results"] for a in data["answers"] for k, v in a["versions"].items()}
    )
    yield "Versions: " + ", ".join(versions) + "."
