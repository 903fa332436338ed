"""What ``asearch`` goes through before its query runs: admission, waiting, the service it is given."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from searchpipe.admission import Admission
from searchpipe.admitted_work import AdmittedWork, Services
from searchpipe.allotment import Allotment, Service
from searchpipe.page import Page
from searchpipe.waiting_room import WaitingRoom
from searchpipe.way_back import WayBack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from searchpipe.config import Config
    from searchpipe.deadline import Deadline
    from searchpipe.stages.base import Stage


class Reception:
    """The waiting room of one pipeline, with its policy. Any thread may call anything.

    Args:
        config: threads, places, whether there is a policy.
        stages: of the pipeline.
        in_flight: asked how many queries run, on these threads and on those of their callers.
    """

    def __init__(self, config: Config, stages: Sequence[Stage], in_flight: Callable[[], int]) -> None:
        limits = config.pipeline
        lexical = "lexical" in config.recall.sources
        self._services = Services(stages, () if lexical else ("vector",))
        self.admission = Admission(limits.threads, places=limits.max_waiting) if limits.admission else None
        self._in_flight = in_flight
        self._loops = threading.local()  # at most one runs on a thread at a time
        self._room: WaitingRoom[Page] = WaitingRoom(
            limits.threads, limits.max_waiting, admission=self.admission, outside=self._outside
        )

    def __len__(self) -> int:
        """Queries that wait."""
        return len(self._room)

    def check(self, deadline: Deadline, priority: object) -> None:
        """See :meth:`searchpipe.waiting_room.WaitingRoom.check`; what is no priority is refused elsewhere."""
        if isinstance(priority, int):
            self._room.check(priority=priority, due=deadline.start + deadline.budget_s)

    def submit(self, work: AdmittedWork, answer: Callable[[AdmittedWork], Page]) -> Future[Page]:
        """Have ``answer(work)`` called on one of the threads.

        Raises:
            OverloadedError: see :meth:`searchpipe.waiting_room.WaitingRoom.submit`.
            ClosedError: closed.
        """
        # The caller's context variables go along: a tracer finds its parent span in them.
        job = partial(contextvars.copy_context().run, _timed, answer, work)
        due = work.deadline.start + work.deadline.budget_s

        def allot(allotment: Allotment) -> None:
            work.allot(allotment, self._services, self._room.pressed)

        return self._room.submit(job, priority=work.query.priority, due=due, allot=allot)

    async def answer(self, work: AdmittedWork, future: Future[Page]) -> Page:
        """Wait for what ``submit`` returned, and learn how long the way back to the caller took."""
        page = await self._way_back().expect(future)
        if self.admission is not None:
            elapsed = work.deadline.elapsed()
            self.admission.errors.returned(max(0.0, work.deadline.start + elapsed - work.done_at))
            if work.service is Service.LIGHTEST:
                self.admission.answered(work.deadline.budget_s, work.deadline.budget_s - elapsed)
        return page

    def _way_back(self) -> WayBack[Page]:
        loop = asyncio.get_running_loop()
        known: WayBack[Page] | None = getattr(self._loops, "way_back", None)
        if known is None or known.loop is not loop:
            known = self._loops.way_back = WayBack(loop)
        return known

    def leave(self, future: Future[Page]) -> None:
        """See :meth:`searchpipe.waiting_room.WaitingRoom.leave`."""
        self._room.leave(future)

    def close(self) -> None:
        """See :meth:`searchpipe.waiting_room.WaitingRoom.close`."""
        self._room.close()

    def _outside(self) -> int:
        """Queries of ``search``, on threads of its callers."""
        return self._in_flight() - (0 if self.admission is None else self.admission.running)


def _timed(answer: Callable[[AdmittedWork], Page], work: AdmittedWork) -> Page:
    page = answer(work)
    work.done_at = work.deadline.start + work.deadline.elapsed()
    return page
