"""Starting one measuring process, in the environment of its system."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import EngineError
from .cell import Answer, Order
from .places import Places, this_package
from .prepare import OFFLINE, SPECIAL_IDS
from .profile import Profile
from .results import Setting
from .systems import System
from .workloads import EXTRA_TOKENS, LENGTH_PENALTY, WORKLOADS

TIME_LIMIT = 1800
"""Seconds after which a cell has failed."""


def run_cell(
    places: Places,
    system: System,
    setting: Setting,
    *,
    sources: Path,
    repeats: int,
    whole: bool,
    scored: Path | None = None,
) -> Answer:
    """Let a new process measure one cell; ``scored``: texts whose probabilities it is to tell.

    Raises:
        MissingExtraError: the system or its model is not there.
        EngineError: the process failed; the message ends with the last of what it said.
    """
    found = _answer(places, system, setting, "cell", sources=sources, repeats=repeats, whole=whole, scored=scored)
    return Answer(**found)


def profile_cell(places: Places, system: System, setting: Setting, sources: Path) -> Profile:
    """Let a new process profile one cell; errors as in :func:`run_cell`."""
    return Profile.from_json(_answer(places, system, setting, "profile", sources=sources))


def _answer(
    places: Places,
    system: System,
    setting: Setting,
    module: str,
    *,
    sources: Path,
    repeats: int = 0,
    whole: bool = False,
    scored: Path | None = None,
) -> dict[str, Any]:
    """What a module of this package writes that is given an order."""
    workload = WORKLOADS[setting.workload]
    with tempfile.TemporaryDirectory() as scratch, this_package() as path:
        order = Order(
            kind=workload.kind,
            adapter=system.adapter,
            model=str(places.model(workload.name, system)),
            sources=str(sources),
            answer=str(Path(scratch) / "answer.json"),
            threads=setting.threads,
            batch=setting.batch,
            beam_size=setting.beam_size,
            exact_tokens=workload.exact_tokens,
            extra_tokens=EXTRA_TOKENS,
            timed=workload.timed.get(setting.batch, workload.sources),
            repeats=repeats,
            whole=whole,
            length_penalty=LENGTH_PENALTY,
            special_ids=_special_ids(places, workload.name),
            settings=system.settings,
            scored=str(scored or ""),
        )
        python = places.binary(system.environment)
        command = [python, "-P", "-m", f"edgewise.benchmarks.peers.{module}", json.dumps(asdict(order))]
        _run(system.name, command, _variables(system, setting.threads) | path, scratch)
        answer: dict[str, Any] = json.loads(Path(order.answer).read_text())
        return answer


def _run(name: str, command: list[Any], variables: dict[str, str], folder: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=variables, cwd=folder, check=False, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{name} took more than {TIME_LIMIT} seconds for one cell: measure fewer sources") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise EngineError(f"{name} ended with status {done.returncode}, expected 0: {last[0]}")


def _variables(system: System, threads: int) -> dict[str, str]:
    """The environment variables of a measuring process: as many threads everywhere as it is given."""
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | OFFLINE | dict.fromkeys(pools, str(threads)) | system.variables


def _special_ids(places: Places, workload: str) -> dict[str, int]:
    if (file := places.file(workload, SPECIAL_IDS)).is_file():
        found: dict[str, int] = json.loads(file.read_text())
        return found
    config = json.loads((places.checkpoint(workload) / "config.json").read_text())
    return {name: config[f"{name}_id"] for name in ("pad", "start", "end")}
