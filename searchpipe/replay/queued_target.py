"""A pipeline in this process, asked as an asyncio service asks it."""

from __future__ import annotations

import asyncio
import threading

from searchpipe.errors import ClosedError
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline
from searchpipe.replay.entry import Entry
from searchpipe.replay.targets import PipelineTarget


class QueuedTarget(PipelineTarget):
    """As :class:`PipelineTarget`, through ``asearch``: the pipeline's own threads behind its own queue.

    The budget runs while a query waits there, so that what comes faster than it can be answered is
    degraded or refused, as in a service. Any thread may search.

    Args:
        pipeline: closed with this object.
        k: hits of a query that names no k.
        budget_ms: of a query that names none; None for the configuration's.
    """

    def __init__(self, pipeline: Pipeline, *, k: int = 10, budget_ms: float | None = None) -> None:
        super().__init__(pipeline, k=k, budget_ms=budget_ms)
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="replay-loop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the pipeline, then the loop that its answers come through."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        super().close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _page(self, entry: Entry) -> Page:
        with self._lock:
            if self._closed:
                raise ClosedError("The target was closed.")
            answer = asyncio.run_coroutine_threadsafe(self._asked(entry), self._loop)
        return answer.result()

    async def _asked(self, entry: Entry) -> Page:
        k, budget = self._wanted(entry)
        return await self.pipeline.asearch(entry.query, k, budget, entry.filters, entry.context)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            # What was asked and not begun yet hears that the pipeline is closed.
            while left := asyncio.all_tasks(self._loop):
                self._loop.run_until_complete(asyncio.wait(left))
        finally:
            self._loop.close()
