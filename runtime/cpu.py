"""How many processors and how much memory this process may use: the machine's, or less in a container."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/")


def available_cpus(root: Path = _ROOT) -> int:
    """Threads worth starting: the CPUs this process may run on, and no more than its cgroup's quota. At least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in (*_quotas_v2(root), _quota_v1(root)) if quota is not None]
    return max(1, int(min([allowed, *quotas])))


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes that can still be allocated, in this cgroup and on this machine; ``None`` where that cannot be told."""
    left = [free for free in (*_memory_left_v2(root), _memory_left_v1(root), _machine_memory(root)) if free is not None]
    return max(0, min(left)) if left else None


def _cgroup_folders(root: Path) -> list[Path]:
    """The process's cgroup v2 and all above it: a limit on any of them holds."""
    mount = root / "sys/fs/cgroup"
    lines = _read(root / "proc/self/cgroup").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    own = mount / path.strip("/")
    return [own, *(p for p in own.parents if p.is_relative_to(mount))]


def _quotas_v2(root: Path) -> list[float | None]:
    return [_ratio(_read(folder / "cpu.max").split()) for folder in _cgroup_folders(root)]


def _quota_v1(root: Path) -> float | None:
    folder = root / "sys/fs/cgroup/cpu"
    return _ratio([_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()])


def _ratio(words: list[str]) -> float | None:
    """``quota / period`` in CPUs; ``None`` for no limit (``max`` or ``-1``) and for what is no number."""
    quota, period = (_number(word) for word in [*words, "", ""][:2])
    return quota / period if quota and period else None


def _memory_left_v2(root: Path) -> list[int | None]:
    return [_left(folder / "memory.max", folder / "memory.current") for folder in _cgroup_folders(root)]


def _memory_left_v1(root: Path) -> int | None:
    folder = root / "sys/fs/cgroup/memory"
    return _left(folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes")


def _left(limit: Path, used: Path) -> int | None:
    most = _number(_read(limit).strip())
    return most - (_number(_read(used).strip()) or 0) if most else None


def _machine_memory(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            kibibytes = _number(line.split()[1])
            return kibibytes * 1024 if kibibytes else None
    return None


def _number(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
