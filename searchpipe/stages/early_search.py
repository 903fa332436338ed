"""A recall source that is searched on another thread while earlier stages run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.stages.base import Work

if TYPE_CHECKING:
    from searchpipe.stages.recall import RecallSource

_Search = Callable[[], tuple[Int32, Float32, float]]


@dataclass(frozen=True, slots=True)
class EarlySearch:
    """A search that was begun; ``join`` it once, on the query's own thread."""

    name: str
    depth: int
    future: Future[tuple[Int32, Float32, float]]
    search: _Search

    def join(self, work: Work, *, optional: bool) -> tuple[Int32, Float32] | None:
        """Wait for the result, of an ``optional`` source no longer than ``work`` allows; None if it is late.

        A search that no thread has begun is done here, so that a query never waits for others in the queue.

        Raises:
            QueryCancelled: before it starts, if the caller has left.
            Exception: what the search raised.
        """
        if not self.future.done() and self.future.cancel():
            with work.step(self.name, self.depth, optional=optional):
                docs, scores, _ = self.search()
            return docs, scores
        work.deadline.check_cancelled()
        limit = max(0.0, work.allowance()) if optional else math.inf
        try:
            if math.isinf(limit) or self.future.done():
                work.mark()
                docs, scores, seconds = self.future.result()
                work.mark()
            else:
                with work.waiting(limit):
                    docs, scores, seconds = self.future.result(limit)
        except TimeoutError:
            if self.future.done():  # its own
                raise
            return None
        except CancelledError as error:  # the pipeline was closed
            raise RuntimeError("the search was dropped") from error
        work.costs.observe(self.name, self.depth, seconds)
        return docs, scores


def begin_search(
    pool: Executor, source: RecallSource, work: Work, depth: int, mask: Bool | None
) -> EarlySearch:
    """Search ``source`` on a thread of ``pool``; it may read nothing of ``work`` but the query."""

    def search() -> tuple[Int32, Float32, float]:
        begin = time.perf_counter()
        docs, scores = source.search(work, depth, mask)
        return docs, scores, time.perf_counter() - begin

    return EarlySearch(source.name, depth, pool.submit(search), search)
