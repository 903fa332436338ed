"""Threads behind a bounded queue, the most urgent first."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from searchpipe.admission import Admission
from searchpipe.allotment import Allotment
from searchpipe.errors import ClosedError, OverloadedError

T = TypeVar("T")

_TURN_S = 0.2
"""How long a thread takes one job after the other until it asks the pool for another turn, which says whether
the pool takes work still: at the interpreter's end pools wait for their threads before any function of
``atexit`` is called, so that a thread that daemon threads keep busy would keep the process alive."""


@dataclass(slots=True, order=True)
class _Entry(Generic[T]):
    urgency: tuple[int, float, int]
    job: Callable[[], T] = field(compare=False)
    future: Future[T] = field(compare=False)
    arrived: float = field(compare=False)
    end: float = field(compare=False)
    allot: Callable[[Allotment], None] | None = field(compare=False)

    @property
    def due(self) -> float:
        return self.urgency[1]


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
        admission: refuses jobs that would be late, and says what each may use; None for neither.
        outside: asked how many queries run elsewhere on the same cores.
        clock: seconds, the one that ``due`` is on.
    """

    def __init__(
        self,
        threads: int,
        max_waiting: int,
        *,
        admission: Admission | None = None,
        outside: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._limit = max_waiting
        self._admission = admission
        self._outside = outside
        self._clock = clock
        self._lock = threading.Lock() if admission is None else admission.lock
        self._waiting: list[_Entry[T]] = []
        self._tickets = itertools.count()
        self._width = threads
        self._active = 0
        self._closed = False
        self._threads = ThreadPoolExecutor(threads, "searchpipe")
        self.refused = 0
        """Jobs that found no place, or lost it to a more urgent one."""

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def admission(self) -> Admission | None:
        """The policy."""
        return self._admission

    def pressed(self) -> bool:
        """Whether those that run should come to an end for the next job; never without a policy."""
        try:
            head = self._waiting[0]  # without the lock: between two steps of every query
        except IndexError:
            return False
        if self._admission is None:
            return False
        return self._admission.presses(head.arrived, head.due, len(self._waiting))

    def check(self, *, priority: int, due: float) -> None:
        """Refuse at once what ``submit`` would refuse, if that is known already; costs next to nothing.

        Raises:
            OverloadedError: it would be late.
        """
        if self._admission is not None:
            with self._lock:
                self._admission.full(due, priority)

    def submit(
        self,
        job: Callable[[], T],
        *,
        priority: int,
        due: float,
        allot: Callable[[Allotment], None] | None = None,
    ) -> Future[T]:
        """Queue a job.

        Args:
            job: called on one of the threads.
            priority: higher goes first.
            due: on the room's clock.
            allot: told what the job may use, just before it is called.

        Raises:
            OverloadedError: every place is taken by jobs at least as urgent, or it would be late.
            ClosedError: the room was closed, or the interpreter is ending.
        """
        now = self._clock()
        urgency = (-priority, due, next(self._tickets))
        turned_out = None
        with self._lock:
            if self._closed:
                raise _closed()
            end = now
            if self._admission is not None:
                ahead = sum(one.urgency < urgency for one in self._waiting)
                end = self._admission.arriving(due, ahead, max(0, self._outside()), priority)
            if len(self._waiting) >= self._limit:
                last = max(self._waiting)
                self.refused += 1
                if last.urgency[0] <= urgency[0]:
                    raise self._full()
                self._remove(last.future)
                turned_out = last.future
            future: Future[T] = Future()
            heapq.heappush(self._waiting, _Entry(urgency, job, future, now, end, allot))
            idle = self._active < self._width
            self._active += idle
        if turned_out is not None and turned_out.set_running_or_notify_cancel():
            turned_out.set_exception(self._full())
        if idle:
            try:
                self._threads.submit(self._run)
            except RuntimeError:  # the pool begins nothing any more
                with self._lock:
                    self._active -= 1
                self.leave(future)
                raise _closed() from None
        return future

    def leave(self, future: Future[T]) -> None:
        """Give a place back, if the job has not begun."""
        with self._lock:
            self._remove(future)
        future.cancel()

    def close(self) -> None:
        """Cancel the jobs that wait and let the running ones end. Idempotent."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for entry in waiting:
            entry.future.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _remove(self, future: Future[T]) -> None:
        self._waiting = [one for one in self._waiting if one.future is not future]
        heapq.heapify(self._waiting)

    def _run(self) -> None:
        """On a thread: take whatever is most urgent, until nothing waits. Going on costs less than waking."""
        end = time.monotonic() + _TURN_S
        while True:
            if time.monotonic() >= end:
                self._take_another_turn()
                return
            allotment, refusal = None, None
            with self._lock:
                if not self._waiting:
                    self._active -= 1
                    return
                entry = heapq.heappop(self._waiting)
                if not entry.future.set_running_or_notify_cancel():
                    continue
                if self._admission is not None:
                    next_due = self._waiting[0].due if self._waiting else math.inf
                    try:
                        allotment = self._admission.starting(
                            entry.due, len(self._waiting), arrived=entry.arrived, next_due=next_due
                        )
                    except OverloadedError as error:
                        refusal = error
            if refusal is not None:
                entry.future.set_exception(refusal)
            else:
                self._do(entry, allotment)

    def _take_another_turn(self) -> None:
        try:
            self._threads.submit(self._run)
        except RuntimeError as error:
            if "shutdown" not in str(error):  # the system has no thread left; the turn is queued for this one
                return
            with self._lock:
                self._closed = True
                self._active -= 1
                waiting, self._waiting = self._waiting, []
            for entry in waiting:
                if entry.future.set_running_or_notify_cancel():
                    entry.future.set_exception(_closed())

    def _do(self, entry: _Entry[T], allotment: Allotment | None) -> None:
        try:
            if entry.allot is not None and allotment is not None:
                entry.allot(allotment)
            result = entry.job()
        except BaseException as error:
            self._ended(entry, allotment, done=False)
            entry.future.set_exception(error)
        else:
            self._ended(entry, allotment, done=True)
            entry.future.set_result(result)

    def _ended(self, entry: _Entry[T], allotment: Allotment | None, *, done: bool) -> None:
        if self._admission is None or allotment is None:
            return
        with self._lock:
            self._admission.ended(allotment, done=done)
            if done:
                predicted, actual = entry.end - entry.arrived, self._clock() - entry.arrived
                self._admission.errors.compare(predicted, actual, allotment.service)

    def _full(self) -> OverloadedError:
        return OverloadedError(
            f"{self._limit} queries wait for a thread, which is the limit.",
            cure="Try again later, or raise pipeline.max_waiting or pipeline.threads.",
        )


def _closed() -> ClosedError:
    return ClosedError("The pipeline was closed, or the interpreter is ending.", cure="Open a new one.")
