"""Memory and utilisation of the GPUs by NVML, read when Prometheus asks."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

from searchpipe.catalog.optional import require

_LOG = logging.getLogger("searchpipe.metrics")


class GpuCollector:
    """A collector for the GPUs that NVML shows; none without it. Any thread may call anything.

    Args:
        nvml: the module ``pynvml``; imported if None, and done without if it cannot be.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """

    def __init__(self, nvml: Any | None = None) -> None:
        self._core = require("prometheus_client.core", "metrics")
        self._lock = threading.Lock()
        self._nvml = _started(nvml)

    def describe(self) -> Iterator[Any]:
        """All families, without samples."""
        yield from self._families()

    def collect(self) -> Iterator[Any]:
        """All families, as of now; a GPU that cannot be asked is left out."""
        families = self._families()
        used, total, busy = families
        nvml = self._nvml
        if nvml is not None:
            with self._lock:
                for index in range(_count(nvml)):
                    try:
                        handle = nvml.nvmlDeviceGetHandleByIndex(index)
                        labels = [str(index), _text(nvml.nvmlDeviceGetName(handle))]
                        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                        used.add_metric(labels, memory.used)
                        total.add_metric(labels, memory.total)
                        busy.add_metric(labels, nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
                    except nvml.NVMLError as error:  # a part of a GPU (MIG) has no utilisation to tell
                        _LOG.debug("NVML does not answer for GPU %d: %s", index, error)
        yield from families

    def _families(self) -> tuple[Any, Any, Any]:
        gauge, labels = self._core.GaugeMetricFamily, ["gpu", "name"]
        return (
            gauge("searchpipe_gpu_memory_used_bytes", "Memory in use, by all processes.", labels=labels),
            gauge("searchpipe_gpu_memory_total_bytes", "Memory of the GPU.", labels=labels),
            gauge("searchpipe_gpu_utilisation_ratio", "Share of time in which a kernel ran.", labels=labels),
        )


def _started(nvml: Any | None) -> Any | None:
    try:
        found = importlib.import_module("pynvml") if nvml is None else nvml
        found.nvmlInit()
    except Exception as error:  # not installed, or no driver: NVML's own kinds of errors
        _LOG.debug("No GPU metrics: %s", error)
        return None
    return found


def _count(nvml: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return 0


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
