"""What an engine is built on and picked for: GPU, driver and the versions of the runtimes."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

import msgspec

from searchpipe.engine.versions import onnxruntime_version

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DRIVER = re.compile(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b")
# Runtime -> distributions that bring it; the first installed one tells the version.
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": (
        "tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings",
        "tensorrt-lean-cu13-bindings", "tensorrt-lean-cu12-bindings", "tensorrt-lean",
    ),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
}  # fmt: skip


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The GPU that engines run on; ``capability`` is (major, minor)."""

    name: str
    capability: tuple[int, int]


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine as far as an engine depends on it; immutable.

    Attributes:
        cpu: architecture, for example ``x86_64``.
        system: for example ``Linux``.
        python: its version.
        runtimes: installed inference runtimes -> version.
        gpu: the GPU used; None without a usable one.
        driver: version of NVIDIA's driver; empty where it is not known.
        cuda: newest CUDA that the driver serves; empty without a driver.
    """

    cpu: str
    system: str
    python: str
    runtimes: dict[str, str]
    gpu: Gpu | None = None
    driver: str = ""
    cuda: str = ""

    @property
    def target(self) -> str:
        """Name of the architecture that engines gated here are for: ``sm_90``, or ``cpu``."""
        return "cpu" if self.gpu is None else f"sm_{self.gpu.capability[0]}{self.gpu.capability[1]}"

    def line(self) -> str:
        """The machine in one line."""
        parts = [f"{name} {version}" for name, version in sorted(self.runtimes.items())]
        if self.gpu is not None:
            major, minor = self.gpu.capability
            parts.insert(0, f"{self.gpu.name} ({major}.{minor}), driver {self.driver or self.cuda}")
        return f"{self.system} {self.cpu}, {', '.join(parts) or 'no runtime'}"


@functools.cache
def this_machine(device: int = 0) -> Machine:
    """Look at this machine, once a process; the GPU is ``device`` of those that the driver lists.

    CUDA is asked in a process of its own (a second), and only where there is a driver to ask.
    """
    gpu, cuda = _gpu(device)
    return Machine(
        cpu=platform.machine() or "unknown",
        system=platform.system(),
        python=platform.python_version(),
        runtimes=runtime_versions(),
        gpu=gpu,
        driver=_driver_version() if cuda else "",
        cuda=cuda,
    )


def runtime_versions() -> dict[str, str]:
    """Versions of the inference runtimes that are installed; nothing is imported."""
    found = {}
    for runtime, names in _DISTRIBUTIONS.items():
        version = onnxruntime_version() if runtime == "onnxruntime" else ""
        version = version or next(filter(None, map(_version, names)), "")
        if version:
            found[runtime] = version
        elif importlib.util.find_spec(runtime) is not None:
            found[runtime] = "unknown"  # unpacked without its metadata
    return found


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu(device: int) -> tuple[Gpu | None, str]:
    if not _has_driver():
        return None, ""
    from searchpipe.backends.probe import probe_cuda

    facts = probe_cuda()
    if facts.reason or not 0 <= device < len(facts.devices):
        return None, ""
    found = facts.devices[device]
    major, _, minor = found.compute_capability.partition(".")
    return Gpu(found.name, (int(major), int(minor or 0))), facts.driver


def _has_driver() -> bool:
    """Cheap: whether asking the driver can give anything; where in doubt, yes."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    nodes = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvmap")
    return sys.platform != "linux" or any(os.path.exists(path) for path in nodes)


def _driver_version() -> str:
    try:
        match = _DRIVER.search(_DRIVER_FILE.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return match.group(1) if match else ""
