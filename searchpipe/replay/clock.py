"""Time for the load: the real one, or that of a test."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds. Called from many threads."""

    def now(self) -> float:
        """Seconds from any start."""
        ...

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait so long, or until ``stop`` is set; returns whether it is."""
        ...


class RealClock:
    """The machine's."""

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait."""
        return stop.wait(seconds)
