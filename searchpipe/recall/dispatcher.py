"""Many callers, one index that only one thread at a time may search."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.device import nvtx
from searchpipe.errors import ClosedError, EngineError, OverloadedError, QueryError, RecallTimeoutError
from searchpipe.recall.ahead import Begun
from searchpipe.recall.lookup import BatchIndex, Found, Lookup
from searchpipe.recall.policy import CoalescePolicy
from searchpipe.recall.waiting import DONE, LEADER, TAKEN, WAITING, Request

_POLL_S = 0.005  # how late a departed caller may notice that it has left
_COST_MEMORY = 0.2  # weight of the newest search in the running mean of what one takes


@dataclass(frozen=True, slots=True)
class DispatchStats:
    """Counts since the start. ``cost_s`` is the running mean of a search, in seconds."""

    searches: int
    lookups: int
    largest: int
    failures: int
    dropped: int
    waiting: int
    cost_s: float


class Dispatcher:
    """Coalesces the lookups of concurrent callers into searches, one at a time.

    There is no thread in between, because handing a lone query over to one and
    back would cost about as much as the search: the caller that finds the index idle leads,
    that is, it searches for itself and for all that wait; when its own result
    is there, the one that has waited longest leads next. So exactly one thread is
    ever inside the index, a lone caller's search begins at once, and callers that
    come during a search make up the next one. A lone caller that no policy makes wait is
    never queued: nobody could share its search. One whose vector the encoder is still writing may
    begin before (:meth:`begin`).

    Any thread may call anything. ``close`` lets the waiting finish. What a signal's handler raises in a
    caller, such as ``KeyboardInterrupt``, leaves no lead behind: see CONTRIBUTING.md, "Interrupts".

    Args:
        index: what is searched.
        policy: batch size, delay, length of the queue.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        index: BatchIndex,
        *,
        policy: CoalescePolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._begin = getattr(index, "begin", None)  # of an index that can search ahead
        self._policy = policy or CoalescePolicy()
        self._clock = clock
        self._at_once = self._policy.max_delay_s == 0.0  # nobody is waited for
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)  # told when nobody leads any more, while closing
        self._company = threading.Lock()  # released when somebody comes while a leader may wait for that
        self._company.acquire()
        self._waiting: list[Request] = []
        self._leader: object | None = None  # a lone caller's lookup, or the request that leads
        self._closed = False
        self._searches = self._lookups = self._largest = self._failures = self._dropped = 0
        self._cost_s = 0.0

    def search(
        self,
        vector: Any,
        k: int,
        *,
        mask: Bool | None = None,
        timeout_s: float = math.inf,
        departed: Callable[[], bool] | None = None,
    ) -> tuple[Int32, Float32]:
        """The ``k`` documents nearest to ``vector``, best first.

        Args:
            vector: float32 ``(dim,)``, on the host or (``__cuda_array_interface__``) on the device.
            k: at most as many; 1 or more.
            mask: bool ``(count,)`` of the allowed documents; callers that pass the same array share a search.
            timeout_s: seconds to wait at most.
            departed: asked now and then while waiting; once it is true, the lookup is dropped.

        Returns:
            docs int32 ``(m,)`` and inner products float32 ``(m,)``, m <= k.

        Raises:
            EngineError: the search that this lookup was in failed; others are not touched.
            RecallTimeoutError: no result in time, or the caller has left.
            OverloadedError: too many wait already.
            QueryError: a vector, k or mask that the index cannot take.
            ClosedError: the dispatcher was closed.
        """
        if not 1 <= k <= self._index.max_k:
            raise QueryError(f"k is {k}; the index gives 1 to {self._index.max_k}.")
        lookup = Lookup(vector, k, mask)
        self._index.check(lookup)
        # No time at all is the queue's to refuse.
        if timeout_s > 0.0 and self._at_once:
            try:
                if self._claim(lookup):
                    return self._index.finish(lookup, self._alone(lookup))
            finally:
                if self._leader is lookup:  # an interrupt came before the next one led
                    with self._lock:
                        self._pass_on()
        now = self._clock()
        timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
        request = Request(lookup, now, now + timeout_s)
        try:
            if self._enter(request) or self._follow(request, timeout_s, departed):
                self._lead(request)
        finally:
            if request.state != DONE or self._leader is request:
                with self._lock:
                    try:
                        self._leave(request)
                    finally:  # again: a signal may have been heard before it did anything
                        self._leave(request)
        if request.error is not None:
            raise request.error
        assert request.found is not None
        return self._index.finish(lookup, request.found)

    def begin(self, vector: Any, k: int) -> Begun | None:
        """Begin to search for a vector that the encoder is writing, on the thread that waits for the encoder.

        The lead is held while the search is handed to the device and not until it ends: its stream
        keeps later searches behind it. None, with nothing begun, unless the index is idle and can
        (:meth:`searchpipe.recall.gpu_index.GpuIndex.begin`).

        Raises:
            EngineError: the search could not be handed over.
            QueryError, ClosedError: as :meth:`search`.
        """
        index, begin = self._index, self._begin
        if begin is None or not self._at_once or not 1 <= k <= index.max_k:
            return None
        lookup = Lookup(vector, k)
        index.check(lookup)
        since = self._clock()
        try:
            if not self._claim(lookup):
                return None
            pending = begin(lookup)
        except BaseException:
            with self._lock:
                self._failures += self._leader is lookup
            raise
        finally:
            if self._leader is lookup:
                with self._lock:
                    try:
                        self._pass_on()
                    finally:  # again: a signal may have been heard before it did anything
                        if self._leader is lookup:
                            self._pass_on()
        if pending is None:
            return None
        return Begun(lookup, pending, index.finish, self._clock() - since, self._ended)

    def stats(self) -> DispatchStats:
        """A copy of the counts."""
        with self._lock:
            return DispatchStats(
                self._searches,
                self._lookups,
                self._largest,
                self._failures,
                self._dropped,
                len(self._waiting),
                self._cost_s,
            )

    def close(self) -> None:
        """Refuse new lookups and wait until those that wait are answered. Idempotent."""
        with self._lock:
            self._closed = True
            self._idle.wait_for(lambda: self._leader is None and not self._waiting)

    def _claim(self, lookup: Lookup) -> bool:
        """Take the lead if the index is idle and nobody waits; whether it was taken."""
        with self._lock:
            if self._leader is not None or self._waiting:
                return False
            if self._closed:
                raise ClosedError("The recall dispatcher was closed.")
            self._leader = lookup
            return True

    def _alone(self, lookup: Lookup) -> Found:
        """Search for the one that has claimed the lead, then let the next one lead."""
        begin = self._clock()
        try:
            if nvtx.enabled():
                with nvtx.range("recall:batch"):
                    found = self._index.search_batch([lookup])
            else:
                found = self._index.search_batch([lookup])
            if len(found) != 1:
                raise EngineError(f"The index gave {len(found)} results for 1 lookups.")
        except BaseException as error:
            with self._lock:
                self._failures += 1
                self._pass_on()
            if not isinstance(error, Exception):
                raise
            raise _for_caller(error) from error
        cost = self._clock() - begin
        with self._lock:
            self._count(1, cost)
            self._pass_on()
        return found[0]

    def _ended(self, cost_s: float | None) -> None:
        """A search that was begun has ended, or failed."""
        with self._lock:
            if cost_s is None:
                self._failures += 1
            else:
                self._count(1, cost_s)

    def _enter(self, request: Request) -> bool:
        """Queue the request; whether its caller leads."""
        with self._lock:
            if self._closed:
                raise ClosedError("The recall dispatcher was closed.")
            if not self._policy.admits(len(self._waiting)):
                raise OverloadedError(
                    f"{len(self._waiting)} lookups wait; the limit is {self._policy.max_waiting}.",
                    cure="Try again later.",
                )
            self._waiting.append(request)
            if self._leader is not None:
                if self._company.locked():
                    self._company.release()
                return False
            self._leader = request
            request.state = LEADER
            return True

    def _follow(self, request: Request, timeout_s: float, departed: Callable[[], bool] | None) -> bool:
        """Wait for a result, or for the lead; whether it is the lead."""
        while True:
            left = max(0.0, request.deadline - self._clock())
            woken = request.wake.acquire(timeout=left if departed is None else min(left, _POLL_S))
            if not woken and departed is not None and departed():
                request.departed = True
            with self._lock:
                if request.state == DONE:
                    return False
                gone = request.departed or request.deadline <= self._clock()
                if not gone:
                    if request.state == LEADER:
                        return True
                    continue
                self._dropped += 1
                self._leave(request)
            raise RecallTimeoutError(
                "The caller left before the search."
                if request.departed
                else f"No result within {timeout_s:.4f} s."
            )

    def _lead(self, request: Request) -> None:
        """Search until ``request`` has its result; the next one leads after :meth:`_leave`."""
        while request.state != DONE:
            self._take_batch(request)
            if request.batch:
                self._search(request.batch)

    def _take_batch(self, leader: Request) -> None:
        """Take what ``leader`` is to search for now; nothing, after a while, if it is to wait for more."""
        leader.batch = []
        with self._lock:
            cut = self._policy.cut(self._waiting, self._clock(), self._cost_s)
            for late in cut.dropped:
                self._waiting.remove(late)
                self._dropped += 1
                self._end(late, error=RecallTimeoutError("The time was up before the search."))
            leader.batch = cut.batch
            for one in cut.batch:
                self._waiting.remove(one)
                if one.state == WAITING:
                    one.state = TAKEN
        if not cut.batch and cut.wait_s and not math.isinf(cut.wait_s):
            self._company.acquire(timeout=cut.wait_s)

    def _search(self, batch: list[Request]) -> None:
        begin = self._clock()
        try:
            with nvtx.range("recall:batch"):
                found = self._index.search_batch([one.lookup for one in batch])
            if len(found) != len(batch):
                raise EngineError(f"The index gave {len(found)} results for {len(batch)} lookups.")
        except BaseException as error:
            with self._lock:
                self._failures += 1
                for one in batch:
                    self._end(one, error=_for_caller(error))
            if not isinstance(error, Exception):
                raise  # an interrupt belongs to the thread that led; the others get an error
            return
        cost = self._clock() - begin
        with self._lock:
            self._count(len(batch), cost)
            for one, result in zip(batch, found, strict=True):
                self._end(one, found=result)

    def _count(self, lookups: int, cost_s: float) -> None:
        """Count a search that took so long; with the lock held."""
        self._searches += 1
        self._lookups += lookups
        if lookups > self._largest:
            self._largest = lookups
        self._cost_s += (cost_s - self._cost_s) * (_COST_MEMORY if self._searches > 1 else 1.0)

    def _end(
        self, request: Request, *, found: Found | None = None, error: BaseException | None = None
    ) -> None:
        """Give a request its result; with the lock held."""
        if request.state == DONE:
            return  # its caller has left
        waits = request.state in (WAITING, TAKEN)
        request.found, request.error, request.state = found, error, DONE
        if waits:
            request.wake.release()

    def _leave(self, request: Request) -> None:
        """Nobody waits for ``request`` any more, nor for what it was to search; with the lock held."""
        if self._leader is request:
            for one in request.batch:  # all of them have ended, but for an interrupt
                if one is not request:
                    self._end(one, error=EngineError("The search was interrupted."))
        self._waiting = [one for one in self._waiting if one is not request and one.state != DONE]
        if self._leader is request:
            self._pass_on()
        request.state = DONE
        request.batch = []  # of which it is one

    def _pass_on(self) -> None:
        """End the lead, or give it to the one that has waited longest; with the lock held."""
        if self._waiting:
            heir = self._waiting[0]
            heir.state = LEADER
            self._leader = heir
            heir.wake.release()
        else:
            self._leader = None
            if self._closed:
                self._idle.notify_all()


def _for_caller(error: BaseException) -> BaseException:
    """What one of several callers is told: an error of its own, so that tracebacks do not mix."""
    told = EngineError(f"The search failed: {type(error).__name__}: {error}")
    told.__cause__ = error
    return told
