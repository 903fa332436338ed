"""Bounds how many queries run a model at once, the most urgent first."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchpipe.deadline import Deadline
    from searchpipe.stages.base import Work


class ComputeGate:
    """A semaphore with an order: the query's priority (higher first), the kind of work, the deadline.

    An engine that already uses every core gains nothing from a second call at
    the same time: both take twice as long, and neither's cost can be
    predicted. So callers pass one at a time (or ``width`` at a time), and one
    that cannot pass in time leaves without having cost anything.

    Any thread may call anything. The queue is as long as the number of threads.

    Args:
        width: callers inside at once, at least 1.
    """

    def __init__(self, width: int = 1) -> None:
        if width < 1:
            raise ValueError(f"A gate of width {width} lets nobody pass.")
        self._free = width
        self._condition = threading.Condition()
        self._waiting: list[tuple[tuple[int, int], float, int]] = []
        self._tickets = itertools.count()

    @contextmanager
    def enter(self, work: Work, *, priority: int, timeout_s: float) -> Iterator[bool]:
        """Wait up to ``timeout_s`` (may be ``inf``) to pass; yields whether it did.

        ``priority`` is the kind of work's, the lower first; among queries of one priority.

        Raises:
            QueryCancelled: the caller has left, perhaps while it waited.
        """
        with work.waiting(timeout_s), work.deadline.on_cancel(self._wake):
            passed = self._acquire((-work.query.priority, priority), timeout_s, work.deadline)
        try:
            work.deadline.check_cancelled()
            yield passed
        finally:
            if passed:
                with self._condition:
                    self._free += 1
                    self._condition.notify_all()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _acquire(self, priority: tuple[int, int], timeout_s: float, deadline: Deadline) -> bool:
        with self._condition:
            if self._free and not self._waiting:
                self._free -= 1
                return True
            if timeout_s <= 0:
                return False
            # Callers wait for about as long as they have left, so the shorter
            # wait is the earlier deadline.
            ticket = (priority, timeout_s, next(self._tickets))
            heapq.heappush(self._waiting, ticket)
            try:
                granted = self._condition.wait_for(
                    lambda: deadline.cancelled or (self._free > 0 and self._waiting[0] == ticket),
                    None if math.isinf(timeout_s) else timeout_s,
                )
                granted = granted and not deadline.cancelled
            finally:
                self._waiting.remove(ticket)
                heapq.heapify(self._waiting)
                self._condition.notify_all()
            if granted:
                self._free -= 1
            return granted
