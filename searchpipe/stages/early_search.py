"""A recall source that is searched on other threads while earlier stages run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.stages.base import Work

if TYPE_CHECKING:
    from searchpipe._core import SearchThreads
    from searchpipe.stages.device_wait import AwaitedDevice
    from searchpipe.stages.recall import RecallSource

_LAST_S = 1e-4
"""Of the wait for the part that another thread works on, while there is something else to do."""


class DividedSearch(Protocol):
    """A search that any number of threads may work on at once; the GIL is released for that.

    Attributes:
        ended: whether :meth:`found` can tell.
        seconds: from when it was first worked on until it ended.
    """

    @property
    def ended(self) -> bool: ...

    @property
    def seconds(self) -> float: ...

    def run(self, seconds: float = math.inf) -> None:
        """Work on it until nothing is left that no thread has begun, about ``seconds`` at most."""
        ...

    def wait(self, seconds: float = math.inf) -> bool:
        """Whether the other threads have ended it, after ``seconds`` at most."""
        ...

    def found(self) -> tuple[Int32, Float32]:
        """Documents and scores, best first; raises what went wrong."""
        ...


class SharedSearch(DividedSearch, Protocol):
    """One that threads of the core can work on, which need no GIL: it has a method ``share``."""

    def share(self, threads: SearchThreads, wanted: int) -> int:
        """Let idle ones of ``threads`` work on it, at most ``wanted``; how many."""
        ...


class EarlySearch:
    """A search that was begun; ``join`` it once, on the query's own thread.

    Whoever has ``run`` it or joins it first searches: a search that no thread has begun by then is done by
    the query itself, so that it never waits for others in the queue. A source with a method ``divided``
    is searched by both threads once the query has nothing else to do. What threads of the core search is
    ``divided`` from the beginning, and nothing is left to ``run``.
    """

    __slots__ = (
        "_claim",
        "_depth",
        "_divided",
        "_ended",
        "_error",
        "_found",
        "_mask",
        "_seconds",
        "_source",
        "_work",
    )

    ahead = False

    def __init__(
        self,
        source: RecallSource,
        work: Work,
        depth: int,
        mask: Bool | None,
        divided: DividedSearch | None = None,
    ) -> None:
        self._source = source
        self._work = work
        self._depth = depth
        self._mask = mask
        self._found: tuple[Int32, Float32] | None = None
        self._divided = divided  # once a thread has begun it
        self._error: BaseException | None = None
        self._seconds = 0.0
        self._claim = threading.Lock()  # taken by who searches
        if divided is not None:
            self._claim.acquire()
        self._ended = threading.Lock()  # released once the search has ended on another thread
        self._ended.acquire()

    def run(self) -> None:
        """Search, unless the query does so itself; on any thread. Raises nothing."""
        if not self._claim.acquire(blocking=False):
            return
        begin = time.perf_counter()
        try:
            divide = getattr(self._source, "divided", None)
            divided = None if divide is None else divide(self._work, self._depth, self._mask)
            if divided is None:
                self._found = self._source.search(self._work, self._depth, self._mask)
            else:
                self._divided = divided
                divided.run()
        except BaseException as error:  # the query's to raise
            self._error = error
        self._seconds = time.perf_counter() - begin
        self._ended.release()

    @staticmethod
    def answers(work: Work) -> bool:  # noqa: ARG004
        """Always: it reads nothing but the query."""
        return True

    def found(self) -> tuple[Int32, Float32] | None:
        """What was found, before it is joined; None if the search has not ended on another thread."""
        if (divided := self._divided) is not None:
            return self._divided_found(divided) if divided.ended else None
        # Read after the lock, which is released after they were written.
        return None if self._ended.locked() else self._found

    def await_others(self, seconds: float) -> None:
        """Let other threads end a search that all can work on, for ``seconds`` at most."""
        if (divided := self._divided) is not None and not divided.ended:
            divided.wait(seconds)

    def help(self, seconds: float) -> None:
        """Work on the search beside the threads that have begun it, if all can, ``seconds`` at most."""
        if (divided := self._divided) is not None and not divided.ended and seconds > 0.0:
            divided.run(seconds)
            divided.wait(min(_LAST_S, seconds))

    def join(
        self,
        work: Work,
        *,
        optional: bool,
        meanwhile: Callable[[AwaitedDevice], None] | None = None,  # noqa: ARG002
        then: Callable[[Int32, Float32], None] | None = None,  # noqa: ARG002
    ) -> tuple[Int32, Float32] | None:
        """Wait for the result, of an ``optional`` source no longer than ``work`` allows; None if it is late.

        ``meanwhile`` is not called: no device searches.

        Raises:
            QueryCancelled: before it starts, if the caller has left.
            Exception: what the search raised.
        """
        name = self._source.name
        if self._claim.acquire(blocking=False):
            with work.step(name, self._depth, optional=optional):
                return self._source.search(work, self._depth, self._mask)
        work.deadline.check_cancelled()
        limit = max(0.0, work.allowance()) if optional else math.inf
        if math.isinf(limit) or self._known():
            work.mark()
            self._wait(math.inf)
            work.mark()
        else:
            with work.waiting(limit):
                if not self._wait(limit):
                    return None
        if (divided := self._divided) is not None:
            found = self._divided_found(divided)
            work.observe(name, self._depth, divided.seconds)
            return found
        # Taken out, as its traceback will hold this frame: a cycle would keep the query's memory.
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        work.observe(name, self._depth, self._seconds)
        return self._found

    def _divided_found(self, divided: DividedSearch) -> tuple[Int32, Float32]:
        """Always the same arrays."""
        if self._found is None:
            self._found = divided.found()
        return self._found

    def _known(self) -> bool:
        """Whether it has ended."""
        divided = self._divided
        return not self._ended.locked() if divided is None else divided.ended

    def _wait(self, limit_s: float) -> bool:
        """Whether it has ended, on this thread, too, or on the other, after ``limit_s`` at most."""
        divided = self._divided
        if divided is None:  # perhaps not yet: the other thread does it all then
            timeout_s = -1 if math.isinf(limit_s) else min(limit_s, threading.TIMEOUT_MAX)
            return self._ended.acquire(timeout=timeout_s)
        begin = time.perf_counter()
        if not divided.ended:
            divided.run(limit_s)
        return divided.ended or divided.wait(limit_s - (time.perf_counter() - begin))
