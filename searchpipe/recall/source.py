"""Dense recall of the pipeline's recall stage, from an index that many queries share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.deadline import QueryCancelled
from searchpipe.errors import EngineError, RecallTimeoutError
from searchpipe.recall.ahead import Begun, UsualTime
from searchpipe.recall.fallback import FallbackIndex
from searchpipe.runtime.device_vectors import DeviceVector
from searchpipe.stages.base import Work

if TYPE_CHECKING:
    from searchpipe.stages.device_wait import AwaitedDevice

_SLICE_S = 0.005  # how late a departed caller may notice that it has left


class SharedDense:
    """A :class:`searchpipe.stages.recall.RecallSource`: nearest neighbours, within the query's time.

    Waits for a place in a search no longer than the query's allowance, and
    leaves the queue when its caller has left. That the CPU answered for the GPU is
    said in the page's degradations, with the reason and an amount of 0: nothing is missing.

    Args:
        index: answers; safe from many threads.

    Attributes:
        usual: of the searches that were begun.
    """

    name = "dense"

    def __init__(self, index: FallbackIndex) -> None:
        self._index = index
        self.usual = UsualTime()

    def ready(self, work: Work) -> bool:
        """Needs the vector, which encode may have given up."""
        return work.vector is not None

    def begin(self, work: Work, depth: int) -> AskedAhead | None:
        """Begin to search by the vector that the encoder is writing; None if that is not possible.

        Raises:
            EngineError: the index failed.
        """
        place = work.device_place
        begun = None if place is None else self._index.begin(place, depth)
        return None if place is None or begun is None else AskedAhead(self, depth, place, begun)

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


class AskedAhead:
    """A dense search that was begun while the encoder wrote its vector; ``join`` it once. One thread.

    Args:
        source: asked again if the search failed.
        depth: documents.
        place: of the vector; held, so that nobody else's is written there before the search has read it.
        begun: the search.
    """

    __slots__ = ("_begun", "_depth", "_place", "_since", "_source", "_until")

    ahead = True

    def __init__(self, source: SharedDense, depth: int, place: DeviceVector, begun: Begun) -> None:
        self._source = source
        self._depth = depth
        self._place = place
        self._begun = begun
        self._since = time.perf_counter() - begun.seconds
        self._until = math.inf  # on the same clock: of its caller's time, once that waits

    def answers(self, work: Work) -> bool:
        """Whether it was searched by the query's vector: an encoder may have failed, and another answered."""
        return work.device_vector is self._place and self._place.followed(work.vector)

    def join(
        self,
        work: Work,
        *,
        optional: bool,
        meanwhile: Callable[[AwaitedDevice], None] | None = None,
        then: Callable[[Int32, Float32], None] | None = None,
    ) -> tuple[Int32, Float32] | None:
        """Wait for the result, of an ``optional`` source no longer than ``work`` allows; None if it is late.

        The cost model is told of handing the search over, in the encoder's time, and of this waiting.
        ``meanwhile`` is called once, with this object; ``then`` with the result, before anything else is done
        about it. What they raise is ignored.
        What failed is searched once more, now in the ordinary way, which knows what to do about it.

        Raises:
            QueryCancelled: the caller has left.
            Exception: what :meth:`SharedDense.search` raises.
        """
        work.deadline.check_cancelled()
        limit = max(0.0, work.allowance()) if optional else math.inf
        try:
            if math.isinf(limit):
                work.mark()
                found = self._wait(work, limit, meanwhile, then)
                work.mark()
            else:
                with work.waiting(limit):
                    found = self._wait(work, limit, meanwhile, then)
        except EngineError:
            with work.step(self._source.name, self._depth, optional=optional):
                return self._source.search(work, self._depth, None)
        if found is not None:
            work.costs.observe(self._source.name, self._depth, self._begun.seconds)
        return found

    def _wait(
        self,
        work: Work,
        limit_s: float,
        meanwhile: Callable[[AwaitedDevice], None] | None,
        then: Callable[[Int32, Float32], None] | None,
    ) -> tuple[Int32, Float32] | None:
        begin = time.perf_counter()
        self._until = begin + limit_s
        if meanwhile is not None:
            with suppress(Exception):
                meanwhile(self)
        waited = not self._begun.ended()
        while True:
            left = limit_s - (time.perf_counter() - begin)
            found = self._begun.end(min(max(0.0, left), _SLICE_S))
            if found is not None:
                if then is not None:
                    with suppress(Exception):
                        then(*found)
                self._source.usual.learn(time.perf_counter() - self._since, waited=waited)
            if found is not None or left <= 0.0:
                return found
            work.deadline.check_cancelled()

    def left(self) -> float:
        """Seconds that the device may still take, as searches go lately; 0 once it is done."""
        if self._begun.ended():
            return 0.0
        now = time.perf_counter()
        return max(0.0, min(self._source.usual.seconds - (now - self._since), self._until - now))

    def wait(self, seconds: float) -> bool:
        """Whether the device is done, after at most ``seconds``."""
        return self._begun.ended(seconds)


def _departed(work: Work) -> bool:
    try:
        work.deadline.check_cancelled()
    except QueryCancelled:
        return True
    return False
