"""Searches are begun on threads of the core, or handed to threads that linger for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from searchpipe.arrays import Bool
from searchpipe.stages.base import Work
from searchpipe.stages.early_search import EarlySearch, SharedSearch

if TYPE_CHECKING:
    from searchpipe._core import SearchThreads
    from searchpipe.stages.recall import RecallSource

_LINGER_S = 0.05
"""How long a thread waits for another search: waking it takes one lock, an executor a dozen times that."""
_TURN_S = 0.2
"""How long a thread goes on until it asks the executor for another turn, which says whether it takes work
still: at the interpreter's end executors wait for their threads before any function of ``atexit`` is called,
so that a thread that daemon threads keep busy would keep the process alive."""
_MOST_QUEUED = 16
"""Searches that wait for a thread; while more come than threads can do, their queries do them anyway."""


class _Lane:
    """A thread's hand-over place: who has taken it off the idle ones fills it and releases ``wake``."""

    __slots__ = ("search", "wake")

    def __init__(self, search: EarlySearch) -> None:
        self.search: EarlySearch | None = search
        self.wake = threading.Lock()
        self.wake.acquire()


class EarlySearches:
    """Searches on threads of the core, and others on those of an executor, which linger for the next one.

    Any thread may begin one. Threads linger past the executor's shutdown unless :meth:`close` went before,
    but those that are kept busy no longer than 0.2 s.

    Args:
        pool: lends the threads; one of them for each search that runs at once, and for what lingers.
        threads: of the core, for searches that they can work on (:class:`SharedSearch`); None for none.
            The caller closes them.
        helpers: of them, that work on one search at most.
    """

    def __init__(self, pool: Executor, threads: SearchThreads | None = None, helpers: int = 1) -> None:
        self._pool = pool
        self._threads = threads
        self._helpers = helpers
        self._idle: list[_Lane] = []  # `append`, `pop` and `remove` are atomic
        self._queued: set[_Lane] = set()  # wait for a thread of the pool; `add` and `discard` are atomic
        self._closed = False

    def begin(self, source: RecallSource, work: Work, depth: int, mask: Bool | None) -> EarlySearch:
        """Search ``source`` on other threads; it may read nothing of ``work`` but the query.

        Raises:
            RuntimeError: the executor was shut down.
            Exception: of a search that is shared, what the source raises.
        """
        if self._threads is not None and (divide := getattr(source, "divided", None)) is not None:
            divided = divide(work, depth, mask)
            if hasattr(divided, "share"):
                cast(SharedSearch, divided).share(self._threads, self._helpers)
                return EarlySearch(source, work, depth, mask, divided)
        search = EarlySearch(source, work, depth, mask)
        try:
            lane = self._idle.pop()  # the last one is the warmest
        except IndexError:
            if len(self._queued) < _MOST_QUEUED:
                self._submit(_Lane(search))
            return search
        lane.search = search
        lane.wake.release()
        return search

    def close(self) -> None:
        """Let no thread linger any more; what is searched now ends. Idempotent."""
        self._closed = True
        while self._idle:
            with suppress(IndexError):  # taken by another thread
                self._idle.pop().wake.release()

    def _submit(self, lane: _Lane) -> None:
        try:
            self._queued.add(lane)
            self._pool.submit(self._serve, lane)
        except BaseException:
            self._queued.discard(lane)
            raise

    def _serve(self, lane: _Lane) -> None:
        self._queued.discard(lane)
        end = time.monotonic() + _TURN_S
        while True:
            # Held nowhere while waiting: it would keep its query's memory.
            search, lane.search = lane.search, None
            if search is not None:
                search.run()
                del search
            if self._closed:
                return
            if time.monotonic() >= end:
                if not self._queued:  # else the thread goes to one that waits
                    with suppress(RuntimeError):  # the executor begins nothing any more
                        self._submit(lane)
                return
            self._idle.append(lane)
            if lane.wake.acquire(timeout=_LINGER_S):
                continue
            try:
                self._idle.remove(lane)
            except ValueError:  # taken this moment: a search is on its way
                if lane.wake.acquire(timeout=_LINGER_S):
                    continue
            return
