"""Dense recall of the pipeline's recall stage, from an index that many queries share."""

from __future__ import annotations

import math

import numpy as np

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.deadline import QueryCancelled
from searchpipe.errors import RecallTimeoutError
from searchpipe.recall.fallback import FallbackIndex
from searchpipe.stages.base import Work


class SharedDense:
    """A :class:`searchpipe.stages.recall.RecallSource`: nearest neighbours, within the query's time.

    Waits for a place in a search no longer than the query's allowance, and
    leaves the queue when its caller has left. That the CPU answered for the GPU is
    said in the page's degradations, with the reason and an amount of 0: nothing is missing.

    Args:
        index: answers; safe from many threads.
    """

    name = "dense"

    def __init__(self, index: FallbackIndex) -> None:
        self._index = index

    def ready(self, work: Work) -> bool:
        """Needs the vector, which encode may have given up."""
        return work.vector is not None

    def search(self, work: Work, depth: int, mask: Bool | None) -> tuple[Int32, Float32]:
        """Search by the vector."""
        assert work.vector is not None
        # The copy that the encoder left on the device, if there is one, need not be sent there again.
        vector = work.vector if work.device_vector is None else work.device_vector
        timeout_s = work.allowance() if not work.deadline.unlimited else math.inf
        try:
            docs, scores, reason = self._index.search_saying(
                vector, depth, mask=mask, timeout_s=max(0.0, timeout_s), departed=lambda: _departed(work)
            )
        except RecallTimeoutError:
            work.deadline.check_cancelled()
            work.degrade("busy", "dense recall")
            return np.empty(0, np.int32), np.empty(0, np.float32)
        if reason:
            work.degrade("unavailable", f"dense recall on the GPU ({reason})", 0.0)
        return docs, scores


def _departed(work: Work) -> bool:
    try:
        work.deadline.check_cancelled()
    except QueryCancelled:
        return True
    return False
