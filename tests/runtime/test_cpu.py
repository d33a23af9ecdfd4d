"""Processors and memory from the files of a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewise.runtime.cpu import available_cpus, available_memory

MANY = 64


@pytest.fixture(autouse=True)
def _many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)), raising=False)


def write(root: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("contents", "cpus"),
    [
        ({}, MANY),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, MANY),
        ({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "garbage\n"}, MANY),
        ({"sys/fs/cgroup/cpu.max": ""}, MANY),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "400000 100000"}, 4),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000",
          "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, MANY),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "600000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 6),
    ],
    ids=str,
)  # fmt: skip
def test_threads_follow_the_quota(contents: dict[str, str], cpus: int, tmp_path: Path) -> None:
    assert available_cpus(write(tmp_path, contents)) == cpus


def test_threads_follow_the_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert available_cpus(tmp_path) == 1


def test_a_machine_without_affinity_counts_its_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cpus(tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path) == 1


@pytest.mark.parametrize(
    ("contents", "free"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    1000 kB\n"}, 1_024_000),
        ({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "5"}, None),
        ({"sys/fs/cgroup/memory.max": "900", "sys/fs/cgroup/memory.current": "500"}, 400),
        ({"sys/fs/cgroup/memory.max": "900", "sys/fs/cgroup/memory.current": "1000"}, 0),
        ({"proc/meminfo": "MemAvailable: 1 kB", "sys/fs/cgroup/memory.max": "5000"}, 1024),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "700",
          "sys/fs/cgroup/memory/memory.usage_in_bytes": "600"}, 100),
    ],
    ids=str,
)  # fmt: skip
def test_memory_is_what_is_left(contents: dict[str, str], free: int | None, tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, contents)) == free


def test_this_machine_has_some_of_both() -> None:
    assert available_cpus() >= 1
    assert available_memory() is None or available_memory() != 0
