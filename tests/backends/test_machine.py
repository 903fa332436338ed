from __future__ import annotations

import os
from pathlib import Path

import pytest

from searchpipe.backends import cores, machine
from searchpipe.backends.cores import available_cores


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host of 16 cores whose control group files lie in the returned folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(cores, "_CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(cores, "_CGROUP_V1", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 16),
        ({"cpu.max": "broken"}, 16),
        ({"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 16),
    ],
)
def test_cores_within_the_container_s_quota(sixteen: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (sixteen / name).write_text(text)
    assert available_cores() == expected


def test_cores_within_the_affinity(sixteen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert available_cores() == 1


def test_machine_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU\nflags\t\t: sse avx2 avx512f avx512_vnni\n")
    (tmp_path / "meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 1048576 kB\n")
    (tmp_path / "memory.max").write_text("2147483648\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CGROUP_MEMORY", tmp_path / "memory.max")
    assert machine.instruction_sets() == ["AVX2", "AVX-512", "AVX-512 VNNI"]
    assert machine.cpu_summary().startswith("Some CPU, ")
    assert machine.memory_summary() == "4.0 GiB, 1.0 GiB available, container limit 2.0 GiB"


def test_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("_CPUINFO", "_MEMINFO", "_CGROUP_MEMORY"):
        monkeypatch.setattr(machine, name, tmp_path / "none")
    assert machine.instruction_sets() == []
    assert "instruction sets unknown" in machine.cpu_summary()
    assert machine.memory_summary() == "unknown"
