"""Bounds how many queries run a model at once, the most urgent first."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchpipe.deadline import Deadline
    from searchpipe.stages.base import Work


class _Place:
    """One caller's; guarded by the gate's lock, but for ``turn``, which is released when there is news."""

    __slots__ = ("inside", "queued", "settled", "turn")

    def __init__(self) -> None:
        self.inside = False
        self.queued = False
        self.settled = False  # was let in, or waits no more
        self.turn = threading.Lock()
        self.turn.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # was woken already
            self.turn.release()


class ComputeGate:
    """A semaphore with an order: the query's priority (higher first), the kind of work, the deadline.

    An engine that already uses every core gains nothing from a second call at
    the same time: both take twice as long, and neither's cost can be
    predicted. So callers pass one at a time (or ``width`` at a time), and one
    that cannot pass in time leaves without having cost anything.

    Any thread may call anything. The queue is as long as the number of threads. What a signal's handler
    raises in a caller, such as ``KeyboardInterrupt``, costs no place: see CONTRIBUTING.md, "Interrupts".

    Args:
        width: callers inside at once, at least 1.
    """

    def __init__(self, width: int = 1) -> None:
        if width < 1:
            raise ValueError(f"A gate of width {width} lets nobody pass.")
        self._free = width
        self._lock = threading.Lock()
        self._waiting: list[tuple[tuple[int, int], float, int, _Place]] = []
        self._tickets = itertools.count()

    @contextmanager
    def enter(self, work: Work, *, priority: int, timeout_s: float) -> Iterator[bool]:
        """Wait up to ``timeout_s`` (may be ``inf``) to pass; yields whether it did.

        ``priority`` is the kind of work's, the lower first; among queries of one priority.

        Raises:
            QueryCancelled: the caller has left, perhaps while it waited.
        """
        place = _Place()
        try:
            with work.waiting(timeout_s), work.deadline.on_cancel(place.wake):
                self._ask(place, (-work.query.priority, priority), timeout_s, work.deadline)
            work.deadline.check_cancelled()
            yield place.inside
        finally:
            with self._lock:
                left_early = place.queued and not place.inside
                place.settled = True
                if place.inside:
                    place.inside = False
                    self._free += 1
                # Not a method: a call must not come before the places are right.
                while self._free and self._waiting:
                    first = self._waiting[0][-1]
                    if not first.settled:
                        first.settled = first.inside = True
                        self._free -= 1
                        try:  # noqa: SIM105
                            first.turn.release()
                        except RuntimeError:  # its query was cancelled; it will give the place back
                            pass
                    heapq.heappop(self._waiting)
                if left_early:
                    self._waiting = [entry for entry in self._waiting if not entry[-1].settled]
                    heapq.heapify(self._waiting)

    def _ask(self, place: _Place, priority: tuple[int, int], timeout_s: float, deadline: Deadline) -> None:
        """Let ``place`` in, now or within the time, if it can be."""
        with self._lock:
            if self._free and all(entry[-1].settled for entry in self._waiting):
                self._free -= 1
                place.settled = place.inside = True
                return
            if timeout_s <= 0 or deadline.cancelled:
                return
            # Callers wait for about as long as they have left, so the shorter
            # wait is the earlier deadline.
            heapq.heappush(self._waiting, (priority, timeout_s, next(self._tickets), place))
            place.queued = True
        place.turn.acquire(timeout=-1 if math.isinf(timeout_s) else min(timeout_s, threading.TIMEOUT_MAX))
        with self._lock:
            place.settled = True  # from here on it is not let in
