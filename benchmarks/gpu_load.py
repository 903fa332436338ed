"""Load on a pipeline, closed and open, and how busy the GPU is under it."""

from __future__ import annotations

import importlib
import math
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np

Ask = Callable[[str], object]

GAP_S = 2e-6
"""Inside of a captured graph the median from one kernel to the next is 0.5 us on an H200."""
PAUSE_S = 2e-3
"""The GPU's work of one query has no wait that long."""


@dataclass(slots=True)
class Load:
    """What a load gave: seconds of each answer, and the wall time of all."""

    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0
    failures: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.wall if self.wall else 0.0


def closed_loop(ask: Ask, texts: Sequence[str], *, callers: int, duration_s: float) -> Load:
    """Each of ``callers`` threads asks again as soon as it was answered, for ``duration_s``."""
    load = Load()
    lock = threading.Lock()
    stop = time.perf_counter() + duration_s

    def call(number: int) -> None:
        mine, failures, turn = [], 0, number * 31
        while (begin := time.perf_counter()) < stop:
            try:
                ask(texts[turn % len(texts)])
                mine.append(time.perf_counter() - begin)
            except Exception:
                failures += 1
            turn += callers
        with lock:
            load.seconds += mine
            load.failures += failures

    begin = time.perf_counter()
    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.wall = time.perf_counter() - begin
    return load


def open_loop(
    ask: Ask, texts: Sequence[str], *, rate: float, duration_s: float, seed: int, threads: int = 64
) -> Load:
    """Queries arrive by a Poisson process, whether or not those before were answered.

    The time of an answer counts from its arrival, so a query that waits for a
    thread is not forgiven the wait (no coordinated omission).
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, max(1, int(rate * duration_s))))
    load = Load()
    lock = threading.Lock()
    begin = time.perf_counter() + 0.05

    def answer(text: str, arrival: float) -> None:
        try:
            ask(text)
        except Exception:
            with lock:
                load.failures += 1
            return
        taken = time.perf_counter() - arrival
        with lock:
            load.seconds.append(taken)

    with ThreadPoolExecutor(threads) as pool:
        for place, offset in enumerate(arrivals.tolist()):
            wait = begin + offset - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            pool.submit(answer, texts[place % len(texts)], begin + offset)
    load.wall = time.perf_counter() - begin
    return load


class BusyMeter:
    """Share of the time in which some kernel ran, by the driver's own counter (NVML), sampled.

    Used as a context manager around a load; for one thread.
    """

    def __init__(self, ordinal: int = 0, *, every_s: float = 0.1) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._device = self._nvml.nvmlDeviceGetHandleByIndex(ordinal)
        self._every_s = every_s
        self._stop = threading.Event()
        self._samples: list[int] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def share(self) -> float:
        """Mean of the samples but the first few, 0 to 1; NaN without samples."""
        settled = self._samples[3:] or self._samples
        return float(np.mean(settled)) / 100 if settled else float("nan")

    def __enter__(self) -> BusyMeter:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._samples.append(int(self._nvml.nvmlDeviceGetUtilizationRates(self._device).gpu))


class Span(NamedTuple):
    """A kernel or a copy; begin and end in seconds on one clock."""

    start: float
    end: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Idle:
    """Times in which the GPU waited for the host, by what it did before and afterwards.

    Attributes:
        before, after: names of the kernels or copies.
        seconds: all such times together.
        times: how many there were.
    """

    before: str
    after: str
    seconds: float
    times: int


@dataclass(frozen=True, slots=True)
class GpuTime:
    """What a GPU did, in seconds.

    Attributes:
        busy: some kernel or copy ran.
        gaps: from the end of one to the begin of the next, where that was shorter than :data:`GAP_S`.
        idle: the longer gaps, those that took most first.
    """

    busy: float
    gaps: float
    idle: tuple[Idle, ...]


def gpu_time(work: Callable[[int], object], calls: int) -> tuple[GpuTime, list[GpuTime]]:
    """What the GPU did while ``work`` was called with 0, 1, ..., in all and in each call.

    By PyTorch's profiler (CUPTI), which makes launches slower. Calls are told apart by a pause between them,
    which counts as nothing. The process must :func:`leave` then.
    """
    torch: Any = importlib.import_module("torch")
    profiler: Any = importlib.import_module("torch.profiler")
    torch.cuda.init()
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as recorded:
        for number in range(calls):
            work(number)
            time.sleep(1.5 * PAUSE_S)
        torch.cuda.synchronize()
    spans = [
        Span(event.time_range.start / 1e6, event.time_range.end / 1e6, event.name)
        for event in recorded.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    found = [covered_time(one) for one in between_pauses(spans)]
    return summed(found), found


def leave() -> NoReturn:
    """End a process that was profiled, with success, but without the exit handlers of C and C++ libraries.

    cuBLASLt's lets the context go, which CUPTI tells PyTorch's profiler, whose data is gone by then: seen to
    abort three processes of nine.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def between_pauses(spans: Iterable[Span]) -> list[list[Span]]:
    """``spans`` in order, divided where nothing ran for :data:`PAUSE_S`."""
    found: list[list[Span]] = []
    covered = -math.inf
    for span in sorted(spans):
        if span.start - covered >= PAUSE_S:
            found.append([])
        found[-1].append(span)
        covered = max(covered, span.end)
    return found


def summed(calls: Iterable[GpuTime]) -> GpuTime:
    """All of ``calls`` together."""
    busy = gaps = 0.0
    idle: dict[tuple[str, str], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for call in calls:
        busy, gaps = busy + call.busy, gaps + call.gaps
        for wait in call.idle:
            seconds, times = idle[wait.before, wait.after]
            idle[wait.before, wait.after] = seconds + wait.seconds, times + wait.times
    waits = [Idle(*around, *sums) for around, sums in idle.items()]
    return GpuTime(busy, gaps, tuple(sorted(waits, key=lambda wait: -wait.seconds)))


def covered_time(spans: Iterable[Span]) -> GpuTime:
    """The time that ``spans`` cover together, the short gaps between them, and the long ones."""
    busy = gaps = 0.0
    covered, last = -math.inf, ""
    idle: dict[tuple[str, str], list[float]] = defaultdict(list)
    for start, end, name in sorted(spans):
        if start > covered:
            if start - covered < GAP_S:
                gaps += start - covered
            elif not math.isinf(covered):
                idle[last, name].append(start - covered)
            covered = start
        if end > covered:
            busy += end - covered
            covered, last = end, name
    waits = [Idle(before, after, sum(times), len(times)) for (before, after), times in idle.items()]
    return GpuTime(busy, gaps, tuple(sorted(waits, key=lambda wait: -wait.seconds)))
