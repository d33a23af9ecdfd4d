"""How much memory this process has held. Only Python's own library, so that any environment can import it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path


def peak_memory() -> int | None:
    """Most bytes of memory this process has held; ``None`` where that cannot be told."""
    return next(_peaks(), None)


def _peaks() -> Iterator[int]:
    yield from _peak_of_linux()  # first, as the next one counts what a parent held before it started this process
    try:
        import resource
    except ImportError:  # Windows
        yield from _peaks_of_psutil()
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield peak if sys.platform == "darwin" else peak * 1024


def _peak_of_linux() -> Iterator[int]:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return
    yield from (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _peaks_of_psutil() -> Iterator[int]:
    try:
        import psutil
    except ImportError:
        return
    memory = psutil.Process().memory_info()
    yield int(getattr(memory, "peak_wset", memory.rss))
