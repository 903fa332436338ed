"""One request to a link of an engine chain: queued and waited for, on a thread or on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
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
        run, ticket, answering = self.live.scorer.run, self.ticket, ANSWERING.get()
        try:
            if answering is None:
                return run(ticket, timeout, spare, before_end)
            with answering.on_cancel(ticket.cancel):  # rows that nobody waits for leave the queue
                return run(ticket, timeout, spare, before_end)
        except BaseException:
            ticket.cancel()
            self.live.breaker.abandoned(self.given)
            raise

    async def ended(self) -> None:
        """Wait for its end on an event loop; a cancelled task cancels it and hands its pass back."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self.ticket.on_done(lambda: _wake(loop, ended))
        try:
            await ended
        except asyncio.CancelledError:
            self.ticket.cancel()
            self.live.breaker.abandoned(self.given)
            raise


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
