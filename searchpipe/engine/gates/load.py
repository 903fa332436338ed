"""Open-loop load: requests arrive when they arrive, whether or not earlier ones are answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Time(Protocol):
    """A clock that can wait. Safe from many threads."""

    def now(self) -> float:
        """Seconds, rising."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class RealTime:
    """The machine's own. Safe from many threads."""

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@dataclass(slots=True)
class LoadResult:
    """What a load did.

    Attributes:
        latencies: seconds from the moment a request was to arrive to its answer, float64, of those answered.
        arrivals: requests that were to be made.
        failures: requests that raised.
        unserved: requests that could not be begun before the load was broken off.
        reasons: of the first failures.
        waited_s: from the first arrival to the last answer.
    """

    latencies: NDArray[np.float64]
    arrivals: int
    failures: int
    unserved: int
    reasons: list[str] = field(default_factory=list)
    waited_s: float = 0.0

    @property
    def served(self) -> int:
        """Requests that were answered."""
        return len(self.latencies)


def poisson_arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Moments of a Poisson process of ``rate`` a second in ``[0, seconds)``, rising, float64."""
    rng = np.random.default_rng(seed)
    number = rng.poisson(rate * seconds)
    return np.sort(rng.uniform(0.0, seconds, number))


def open_loop(
    call: Callable[[int], object],
    arrivals: NDArray[np.float64],
    *,
    threads: int,
    break_off_s: float,
    clock: Time | None = None,
) -> LoadResult:
    """Call ``call(i)`` for each arrival at its moment, from ``threads`` threads.

    Latency counts from the moment of arrival, not from when a thread was free: a stall is felt by
    every request that comes meanwhile (no coordinated omission).

    Args:
        call: safe from many threads.
        arrivals: seconds after the start, rising.
        threads: requests in flight at most.
        break_off_s: no request is begun later than that after the start.
        clock: of the moments.
    """
    real = clock or RealTime()
    lock = threading.Lock()
    latencies: list[float] = []
    reasons: list[str] = []
    counts = {"next": 0, "failures": 0, "unserved": 0}
    start = real.now()

    def work() -> None:
        while True:
            with lock:
                place = counts["next"]
                if place >= len(arrivals):
                    return
                counts["next"] += 1
            due = start + float(arrivals[place])
            wait = due - real.now()
            if wait > 0:
                real.sleep(wait)
            if real.now() - start > break_off_s:
                with lock:
                    counts["unserved"] += 1
                continue
            try:
                call(place)
            except Exception as error:  # whatever an engine raises under load is a failed request
                with lock:
                    counts["failures"] += 1
                    if len(reasons) < 3:
                        reasons.append(str(error) or type(error).__name__)
                continue
            latency = real.now() - due
            with lock:
                latencies.append(latency)

    workers = [
        threading.Thread(target=work, name=f"searchpipe-load-{n}", daemon=True) for n in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return LoadResult(
        np.array(latencies),
        len(arrivals),
        counts["failures"],
        counts["unserved"],
        reasons,
        real.now() - start,
    )
