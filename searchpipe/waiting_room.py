"""Threads behind a bounded queue, the most urgent first."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from searchpipe.errors import OverloadedError

T = TypeVar("T")


class WaitingRoom(Generic[T]):
    """Runs jobs on a few threads: higher priority first, inside a priority the earlier due, then arrival.

    At most ``max_waiting`` jobs wait. A job that comes when all places are taken
    takes the place of the least urgent one of a lower priority, whose future then raises
    ``OverloadedError``; if there is none, the newcomer is refused. A cancelled future gives
    its place back at once.

    Any thread may call anything.

    Args:
        threads: jobs that run at once.
        max_waiting: jobs that wait at most.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._limit = max_waiting
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, float, int, Callable[[], T], Future[T]]] = []
        self._tickets = itertools.count()
        self._threads = ThreadPoolExecutor(threads, "searchpipe")

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    def submit(self, job: Callable[[], T], *, priority: int, due: float) -> Future[T]:
        """Queue a job.

        Args:
            job: called on one of the threads.
            priority: higher goes first.
            due: monotonic seconds.

        Raises:
            OverloadedError: every place is taken by jobs at least as urgent.
            RuntimeError: the room was closed.
        """
        future: Future[T] = Future()
        entry = (-priority, due, next(self._tickets), job, future)
        turned_out = None
        with self._lock:
            if len(self._waiting) >= self._limit:
                last = max(self._waiting, key=lambda one: one[:3])
                if last[0] <= entry[0]:
                    raise self._full()
                self._remove(last[4])
                turned_out = last[4]
            heapq.heappush(self._waiting, entry)
        if turned_out is not None and turned_out.set_running_or_notify_cancel():
            turned_out.set_exception(self._full())
        # Each submission wakes one thread, which takes whatever is most urgent by then.
        self._threads.submit(self._run_next)
        return future

    def leave(self, future: Future[T]) -> None:
        """Give a place back, if the job has not begun."""
        with self._lock:
            self._remove(future)
        future.cancel()

    def close(self) -> None:
        """Cancel the jobs that wait and let the running ones end. Idempotent."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for *_, future in waiting:
            future.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _remove(self, future: Future[T]) -> None:
        self._waiting = [one for one in self._waiting if one[4] is not future]
        heapq.heapify(self._waiting)

    def _run_next(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            *_, job, future = heapq.heappop(self._waiting)
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = job()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _full(self) -> OverloadedError:
        return OverloadedError(
            f"{self._limit} queries wait for a thread, which is the limit.",
            cure="Try again later, or raise pipeline.max_waiting or pipeline.threads.",
        )
