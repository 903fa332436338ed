"""The room where queries wait until one of the callers is free: bounded in places and in time."""

from __future__ import annotations

from collections import deque

from searchpipe.replay.schedule import Arrival


class WaitingRoom:
    """Arrivals in order; pure, the clock is passed in as seconds from the start.

    Whoever waits longer than the patience is dropped, and so is the oldest when a new one finds
    no place: it is the one that waited longest, so what is dropped never looks fast. Not for
    several threads at once: the caller holds a lock.

    Args:
        places: most arrivals that wait.
        patience_s: longest wait, in seconds.
    """

    def __init__(self, places: int, patience_s: float) -> None:
        self._places = places
        self._patience_s = patience_s
        self._queue: deque[Arrival] = deque()

    def __len__(self) -> int:
        """Arrivals that wait."""
        return len(self._queue)

    def add(self, arrival: Arrival) -> list[Arrival]:
        """Let one in; returns those that are dropped for it."""
        dropped: list[Arrival] = []
        while self._queue and len(self._queue) >= self._places:
            dropped.append(self._queue.popleft())
        self._queue.append(arrival)
        return dropped

    def take(self, now: float) -> tuple[Arrival | None, list[Arrival]]:
        """The next to be started, None if nobody waits, and those whose patience ended before."""
        dropped: list[Arrival] = []
        while self._queue:
            arrival = self._queue.popleft()
            if now - arrival.at <= self._patience_s:
                return arrival, dropped
            dropped.append(arrival)
        return None, dropped

    def clear(self) -> list[Arrival]:
        """Send everybody home."""
        left = list(self._queue)
        self._queue.clear()
        return left
