"""A variant under load: tail latency, failures, memory of the process and of the GPU."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from searchpipe.backends.cores import available_cores
from searchpipe.engine.gates.evaluation import EvalQuery
from searchpipe.engine.gates.load import LoadResult, RealTime, Time, open_loop, poisson_arrivals
from searchpipe.engine.gates.result import GateResult, not_evaluated
from searchpipe.engine.gates.variants import OnGpu, Variant
from searchpipe.engine.recipe import GateSettings
from searchpipe.engine.rows import Pair

NAMES = ("stress_p99_ms", "stress_failures", "memory_mib")
GPU_MEMORY = "gpu_memory_mib"

MIN_REQUESTS = 10
"""Fewer answered ones have no tail to speak of."""

_IDLE_CALLS = 11
_WANTED_REQUESTS = 40
_BREAK_OFF = 3.0  # times the load's length
# A queue with one server at half load (M/M/1) has a P99 of 9.2 times its mean service.
_P99_OF_IDLE = 10.0
_STATM = Path("/proc/self/statm")


def stress_gates(
    variant: Variant,
    queries: Sequence[EvalQuery],
    settings: GateSettings,
    seed: int,
    *,
    threads: int = 0,
    clock: Time | None = None,
    memory_mib: Callable[[], float] | None = None,
) -> list[GateResult]:
    """Poisson arrivals of whole queries from several threads, at the recipe's rate.

    A request scores a query's candidates; where even an idle machine would answer fewer than 40 of
    them in the time, requests are halved until it would.

    Args:
        variant: scores.
        queries: asked in turn.
        settings: rate, seconds and limits.
        seed: of the arrivals.
        threads: requests in flight at most; 0 for the cores of the machine, at least 2 and at most 8.
        clock: of the measurements.
        memory_mib: resident memory of the process, in MiB.
    """
    real = clock or RealTime()
    resident = memory_mib or resident_mib
    names = (*NAMES, GPU_MEMORY) if isinstance(variant, OnGpu) else NAMES
    on_gpu = variant.gpu_memory_mib if isinstance(variant, OnGpu) else None
    workers = threads or min(8, max(2, available_cores()))
    try:
        requests, idle_s = _requests(variant, queries, settings.stress_seconds, real)
        rate = settings.stress_rate
        if not rate:
            rate = 0.5 * _capacity(variant, requests, workers, settings.stress_seconds / 4, real)
        before = resident()
        gpu_before = on_gpu() if on_gpu else 0.0
        load = open_loop(
            lambda place: variant.score(requests[place % len(requests)]),
            poisson_arrivals(rate, settings.stress_seconds, seed),
            threads=workers,
            break_off_s=_BREAK_OFF * settings.stress_seconds,
            clock=real,
        )
        grown = resident() - before
        gpu_grown = on_gpu() - gpu_before if on_gpu else 0.0
    except Exception as error:  # an engine that fails when idle has failed its stress test
        return [not_evaluated(name, f"{type(error).__name__}: {error}") for name in names]
    rows = max(map(len, requests))
    what = f"{load.arrivals} requests of up to {rows} pairs, {rate:.3g} a second from {workers} threads"
    gates = [
        _latency_gate(load, settings, idle_s, rate, rows, what),
        _failure_gate(load, what),
        _memory_gate(NAMES[2], "the process", grown, settings.max_memory_mib, what),
    ]
    if on_gpu:
        # Graphs are captured and arenas full when the load begins: what grows then is a leak or a stranger's.
        gpu = _memory_gate(
            GPU_MEMORY, "the GPU's memory in use", gpu_grown, settings.max_gpu_memory_mib, what
        )
        gates.append(replace(gpu, details={"in_use_mib": gpu_before + gpu_grown}))
    return gates


def resident_mib() -> float:
    """Resident memory of this process, in MiB; its peak where the system does not tell."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _latency_gate(
    load: LoadResult, settings: GateSettings, idle_s: float, rate: float, rows: int, what: str
) -> GateResult:
    if load.served < MIN_REQUESTS:
        return not_evaluated(
            NAMES[0], f"{load.served} requests were answered, and {MIN_REQUESTS} are needed; {what}"
        )
    p50, p99 = (1e3 * float(value) for value in np.quantile(load.latencies, [0.5, 0.99]))
    idle_ms = 1e3 * idle_s
    limit = settings.stress_p99_ms or _P99_OF_IDLE * idle_ms
    whose = "the recipe's" if settings.stress_p99_ms else f"{_P99_OF_IDLE:g} times the idle P50"
    return GateResult(
        NAMES[0],
        p99 <= limit,
        p99,
        limit,
        f"P99 in ms from the moment of arrival, against {whose}; {what}",
        details={
            "p50_ms": p50,
            "p99_ms": p99,
            "idle_p50_ms": idle_ms,
            "rate": rate,
            "requests": load.arrivals,
            "rows": rows,
            "seconds": load.waited_s,
        },
    )


def _failure_gate(load: LoadResult, what: str) -> GateResult:
    lost = load.failures + load.unserved
    told = "".join(f"; {reason}" for reason in load.reasons)
    reason = f"{load.failures} failed and {load.unserved} were not begun in time, of {what}{told}"
    return GateResult(NAMES[1], lost == 0, lost, 0, reason)


def _memory_gate(name: str, whose: str, grown: float, limit: float, what: str) -> GateResult:
    if not limit:
        return GateResult(name, True, grown, None, f"growth of {whose} in MiB, no limit; {what}")
    return GateResult(name, grown <= limit, grown, limit, f"growth of {whose} in MiB; {what}")


def _requests(
    variant: Variant, queries: Sequence[EvalQuery], seconds: float, clock: Time
) -> tuple[list[list[Pair]], float]:
    """Requests that fit the time, and the median seconds of one on the idle machine."""
    requests = [[(query.text, int(doc)) for doc in query.docs] for query in queries]
    while True:
        # The first run allocates for its shape.
        variant.score(requests[0])
        began = clock.now()
        variant.score(requests[0])
        longest = max(map(len, requests))
        if (clock.now() - began) * _WANTED_REQUESTS <= seconds or longest == 1:
            break
        requests = [request[: max(1, longest // 2)] for request in requests]
    taken = []
    for request in itertools.islice(itertools.cycle(requests), _IDLE_CALLS):
        began = clock.now()
        variant.score(request)
        taken.append(clock.now() - began)
    return requests, float(np.median(taken))


def _capacity(
    variant: Variant, requests: Sequence[Sequence[Pair]], threads: int, seconds: float, clock: Time
) -> float:
    """Requests a second when every thread asks again at once.

    Raises:
        EngineError: a request failed.
    """
    ends = clock.now() + seconds
    done = [0] * threads
    errors: list[BaseException] = []

    def work(mine: int) -> None:
        try:
            while clock.now() < ends and not errors:
                variant.score(requests[(mine + done[mine] * threads) % len(requests)])
                done[mine] += 1
        except Exception as error:  # told to the caller
            errors.append(error)

    began = clock.now()
    workers = [threading.Thread(target=work, args=(mine,), daemon=True) for mine in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return max(1, sum(done)) / max(clock.now() - began, 1e-6)
