"""One request to a link of an engine chain: queued and waited for, on a thread or on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from searchpipe import _core
from searchpipe.deadline import ANSWERING
from searchpipe.runtime.links import Live

Spare = Callable[[], None]
"""What a caller does while the engine has its request."""


class Request(NamedTuple):
    """A request of one caller.

    Attributes:
        live: the link that was asked.
        given: the pass of its breaker, which is handed back in every case.
        ticket: of its scorer.
        begun: the chain's clock, in seconds.
        before_s: seconds of what others had given to the engine then, by its forecaster.
    """

    live: Live
    given: int
    ticket: _core.Ticket
    begun: float
    before_s: float

    def run(self, timeout: float | None, spare: Spare | None, before_end: Spare | None) -> bool:
        """Queue it, use the time for ``spare``, wait; False if ``timeout`` seconds went by before the end.

        ``before_end``: perhaps called when the end is near, see :meth:`EngineChain.run`.

        Raises:
            OverloadedError, ClosedError: it could not be queued. Then, as after an interrupt, it has been
                cancelled and its pass handed back.
        """
        return self._watched(partial(self.live.scorer.run, self.ticket), timeout, spare, before_end)

    def finish(
        self,
        flight: _core.Flight,
        timeout: float | None,
        spare: Spare | None,
        before_end: Spare | None,
    ) -> bool:
        """What is left of :meth:`run` once it was begun, which gave ``flight``."""
        return self._watched(flight.finish, timeout, spare, before_end)

    def abandon(self) -> None:
        """Cancel it, and hand its pass back."""
        self.ticket.cancel()
        self.live.breaker.abandoned(self.given)

    def _watched(
        self,
        wait: Callable[[float | None, Spare | None, Spare | None], bool],
        timeout: float | None,
        spare: Spare | None,
        before_end: Spare | None,
    ) -> bool:
        answering = ANSWERING.get()
        try:
            if answering is None:
                return wait(timeout, spare, before_end)
            with answering.on_cancel(self.ticket.cancel):  # rows that nobody waits for leave the queue
                return wait(timeout, spare, before_end)
        except BaseException:
            self.abandon()
            raise

    async def ended(self) -> None:
        """Wait for its end on an event loop; a cancelled task cancels it and hands its pass back."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self.ticket.on_done(lambda: _wake(loop, ended))
        try:
            await ended
        except asyncio.CancelledError:
            self.abandon()
            raise


class Begun(NamedTuple):
    """A request that is on its way: to be finished, or abandoned, by the thread that has begun it."""

    request: Request
    flight: _core.Flight


def once(work: Spare) -> Spare:
    """Does ``work`` when first called, whatever becomes of it, and then nothing."""
    left = [work]

    def first() -> None:
        if left:
            with suppress(Exception):
                left.pop()()

    return first


def _wake(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    def finish() -> None:
        if not ended.done():
            ended.set_result(None)

    try:
        loop.call_soon_threadsafe(finish)
    except RuntimeError:  # the loop was closed: nobody waits any more
        return
