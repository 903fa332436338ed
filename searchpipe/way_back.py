"""From the threads that answer to the event loop that waits: many answers at one wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class WayBack(Generic[T]):
    """Hands what futures of other threads became to waiters of one event loop.

    ``asyncio.wrap_future`` wakes the loop once for each, by a call of the system during which other
    threads take Python's lock; under load, when the loop comes to it late, one wake-up does for all that
    ended until then.

    Args:
        loop: that waits. ``expect`` is called on it; the futures may end on any thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ended: deque[tuple[Future[T], asyncio.Future[T]]] = deque()
        self._told = False

    def expect(self, future: Future[T]) -> asyncio.Future[T]:
        """What ``future`` becomes; cancelling the waiter leaves ``future`` as it is."""
        waiter: asyncio.Future[T] = self.loop.create_future()
        future.add_done_callback(lambda ended: self._tell(ended, waiter))
        return waiter

    def _tell(self, future: Future[T], waiter: asyncio.Future[T]) -> None:
        # Without a lock: the loop takes `_told` back before it empties the queue, so that what is
        # appended too late for it finds `_told` false. Telling twice does no harm.
        self._ended.append((future, waiter))
        if self._told:
            return
        self._told = True
        try:
            self.loop.call_soon_threadsafe(self._hand_over)
        except RuntimeError:
            self._told = False
            if not self.loop.is_closed():  # then nobody waits any more
                raise

    def _hand_over(self) -> None:
        self._told = False
        while self._ended:
            future, waiter = self._ended.popleft()
            if not waiter.done():
                _settle(future, waiter)


def _settle(future: Future[T], waiter: asyncio.Future[T]) -> None:
    if future.cancelled():
        waiter.cancel()
        return
    error = future.exception()
    if error is None:
        waiter.set_result(future.result())
    elif isinstance(error, StopIteration):  # which no asyncio future takes
        waiter.set_exception(RuntimeError("A stage raised StopIteration."))
    else:
        waiter.set_exception(error)
