"""What the machine is: processor, instruction sets, memory."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from searchpipe.backends.cores import available_cores

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
# Kernel names of the instruction sets that speed models up, and how people write them.
_INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "sve": "SVE",
}
INT8_SETS = ("AVX-VNNI", "AVX-512 VNNI", "AMX int8", "NEON dot product")


def instruction_sets() -> list[str]:
    """Instruction sets that matter to models; empty where the system does not list them."""
    flags = set((_field(_CPUINFO, "flags") or _field(_CPUINFO, "Features")).split())
    return [label for flag, label in _INSTRUCTION_SETS.items() if flag in flags]


def cpu_summary() -> str:
    """Model, usable cores and instruction sets in one line."""
    model = _field(_CPUINFO, "model name") or platform.processor() or platform.machine()
    usable, present = available_cores(), os.cpu_count() or 1
    cores = f"{usable} of {present} cores usable" if usable != present else f"{present} cores"
    sets = instruction_sets()
    return f"{model}, {cores}, {', '.join(sets) if sets else 'instruction sets unknown'}"


def memory_summary() -> str:
    """Total and available memory, and the container's limit if there is one."""
    total, available = _kilobytes("MemTotal"), _kilobytes("MemAvailable")
    if not total:
        return "unknown"
    text = f"{total / 2**20:.1f} GiB, {available / 2**20:.1f} GiB available"
    try:
        limit = _CGROUP_MEMORY.read_text().strip()
    except OSError:
        return text
    return text if limit == "max" else f"{text}, container limit {int(limit) / 2**30:.1f} GiB"


def _field(path: Path, key: str) -> str:
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        pass
    return ""


def _kilobytes(key: str) -> int:
    words = _field(_MEMINFO, key).split()
    return int(words[0]) if words and words[0].isdigit() else 0
