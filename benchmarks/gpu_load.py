"""Load on a pipeline, closed and open, and how busy the GPU is under it."""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Ask = Callable[[str], object]

GAP_S = 2e-6
"""Inside of a captured graph the median from one kernel to the next is 0.5 us on an H200."""


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
        longest: the longest of them, in seconds.
    """

    before: str
    after: str
    seconds: float
    times: int
    longest: float


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


@dataclass(frozen=True, slots=True)
class CallTime:
    """What a GPU did during one call, in seconds.

    Attributes:
        busy, gaps: as of :class:`GpuTime`.
        before, after: from the call to the GPU's first work, and from its last to the return.
        longest: of the waits between them.
    """

    busy: float
    gaps: float
    before: float
    after: float
    longest: float


def gpu_time(work: Callable[[int], object], calls: int) -> tuple[GpuTime, list[CallTime]]:
    """What the GPU did while ``work`` was called with 0, 1, ..., in all and by call.

    By PyTorch's profiler (CUPTI), which makes launches slower. Calls in which it saw nothing are left out.
    """
    torch: Any = importlib.import_module("torch")
    profiler: Any = importlib.import_module("torch.profiler")
    torch.cuda.init()
    kinds = profiler.ProfilerActivity
    names = {f"call {number} of {calls}" for number in range(calls)}
    with profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as recorded:
        for number in range(calls):
            with profiler.record_function(f"call {number} of {calls}"):
                work(number)
        torch.cuda.synchronize()
    spans, ranges = [], []
    for event in recorded.events():
        times = Span(event.time_range.start / 1e6, event.time_range.end / 1e6, event.name)
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if event.name not in names:
            if on_device:
                spans.append(times)
        elif not on_device:
            ranges.append(times)
    return covered_time(spans), by_call(spans, ranges)


def by_call(spans: Iterable[Span], calls: Iterable[Span]) -> list[CallTime]:
    """The same of each of ``calls``, in their order, which do not overlap; of those that have any spans."""
    spans, found, place = sorted(spans), [], 0
    for call in sorted(calls):
        while place < len(spans) and spans[place].start < call.start:
            place += 1
        first = place
        while place < len(spans) and spans[place].start < call.end:
            place += 1
        if first < place:
            mine = spans[first:place]
            whole = covered_time(mine)
            longest = max((wait.longest for wait in whole.idle), default=0.0)
            last = max(span.end for span in mine)
            found.append(
                CallTime(
                    whole.busy, whole.gaps, mine[0].start - call.start, max(0.0, call.end - last), longest
                )
            )
    return found


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
    waits = [
        Idle(before, after, sum(times), len(times), max(times)) for (before, after), times in idle.items()
    ]
    return GpuTime(busy, gaps, tuple(sorted(waits, key=lambda wait: -wait.seconds)))
