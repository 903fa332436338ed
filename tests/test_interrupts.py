"""What a signal's handler raises in a query, whenever it does, takes nothing away from the next one."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from searchpipe.breaker import BreakerPolicy, CircuitBreaker
from searchpipe.cache.bounded import BoundedCache
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline
from searchpipe.errors import RecallTimeoutError
from searchpipe.gate import ComputeGate
from searchpipe.live.version import Version
from searchpipe.pipeline import Pipeline
from searchpipe.query import Query
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.lookup import Found
from searchpipe.stages.base import Work
from tests.conftest import World
from tests.fakes.moments import moments

# In a destructor, where Python drops it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def work() -> Work:
    return Work(Query("q", 1), Deadline(60_000), CostModel())


@pytest.mark.parametrize("occupied", [False, True])
def test_a_gate_keeps_its_places(occupied: bool) -> None:
    gate, seen = ComputeGate(2), 0

    def enter(timeout_s: float = 0.001) -> bool:
        with gate.enter(work(), priority=1, timeout_s=timeout_s) as passed:
            return passed

    for _ in moments(lambda: enter()):
        seen += 1
        assert gate._free == 2
    assert seen > 20
    if not occupied:
        return
    with gate.enter(work(), priority=1, timeout_s=1), gate.enter(work(), priority=1, timeout_s=1):
        assert not enter()
        for _ in moments(lambda: enter()):
            assert all(entry[-1].settled for entry in gate._waiting)
        asked = threading.Thread(target=enter, args=(60.0,))
        asked.start()
        while not gate._waiting:
            pass
    asked.join(60)
    assert (gate._free, gate._waiting) == (2, [])


def test_a_place_is_handed_on_by_who_is_interrupted() -> None:
    gate, passed = ComputeGate(), []

    def wait() -> None:
        with gate.enter(work(), priority=1, timeout_s=60.0) as let_in:
            passed.append(let_in)

    def hold() -> None:
        with gate.enter(work(), priority=1, timeout_s=60.0) as let_in:
            assert let_in
            threads.append(threading.Thread(target=wait))
            threads[-1].start()
            while not gate._waiting:
                pass

    threads: list[threading.Thread] = []
    for _ in moments(hold):
        for thread in threads:
            thread.join(60)
        assert gate._free == 1
    assert all(passed)
    assert len(passed) >= 3


class Index:
    """Its search waits for ``gate``."""

    max_k = 10

    def __init__(self) -> None:
        self.gate = threading.Lock()

    def check(self, lookup: Any) -> None:
        pass

    def search_batch(self, lookups: Any) -> list[Found]:
        with self.gate:
            return [Found(np.array([3]), np.array([1.0], np.float32)) for _ in lookups]

    def begin(self, lookup: Any) -> None:
        return None

    def finish(self, lookup: Any, found: Found) -> Any:
        return found.ids.astype(np.int32), found.scores


VECTOR = np.zeros(4, np.float32)


def idle(dispatcher: Dispatcher) -> bool:
    return dispatcher._leader is None and not dispatcher._waiting


def test_a_lone_lead_ends() -> None:
    dispatcher, seen = Dispatcher(Index()), 0
    for run in (lambda: dispatcher.search(VECTOR, 1), lambda: dispatcher.begin(VECTOR, 1)):
        for _ in moments(run):
            seen += 1
            assert idle(dispatcher)
    assert seen > 10
    assert dispatcher.search(VECTOR, 1)[0].tolist() == [3]
    dispatcher.close()


def test_who_is_interrupted_in_the_queue_is_neither_searched_for_nor_made_the_leader() -> None:
    index = Index()
    dispatcher = Dispatcher(index)

    def queued() -> None:
        with suppress(RecallTimeoutError):
            dispatcher.search(VECTOR, 1, timeout_s=0.002)

    with index.gate:
        leader = threading.Thread(target=dispatcher.search, args=(VECTOR, 1))
        leader.start()
        while dispatcher._leader is None:
            pass
        for _ in moments(queued):
            assert not dispatcher._waiting
    leader.join(60)
    assert idle(dispatcher)


def test_who_is_interrupted_as_the_leader_leaves_nobody_waiting() -> None:
    index = Index()
    dispatcher = Dispatcher(index)
    ended: list[bool] = []

    def other() -> None:
        try:
            dispatcher.search(VECTOR, 1, timeout_s=60.0)
        except Exception as error:
            assert "nterrupt" in str(error)  # noqa: PT017
        ended.append(True)

    def led() -> None:
        """Wait in the queue for the lead, with another one behind."""
        with index.gate:
            first = threading.Thread(target=dispatcher.search, args=(VECTOR, 1))
            first.start()
            while dispatcher._leader is None:
                pass
            threads.extend([first, threading.Thread(target=other)])
            threads[-1].start()
            while not dispatcher._waiting:
                pass
        dispatcher.search(VECTOR, 1, timeout_s=60.0)

    threads: list[threading.Thread] = []
    for _ in moments(led, step=3):
        for thread in threads:
            thread.join(60)
        assert idle(dispatcher)
        threads.clear()
    assert len(ended) > 5


class Empty:
    """A stage that finds nothing."""

    name, reads, writes, essential = "page", (), ("hits",), True

    def run(self, work: Work) -> None:
        work.hits = []

    def describe(self) -> str:
        return "nothing"


def test_a_pipeline_counts_its_queries() -> None:
    pipeline = Pipeline([Empty()])
    for _ in moments(lambda: pipeline.search("shoes")):
        assert pipeline.load == (0, 0)
    pipeline.close()


def test_a_cache_keeps_its_books() -> None:
    cache, numbers = BoundedCache[int](3, max_bytes=2000, clock=lambda: 0.0), itertools.count()

    def put() -> None:
        cache.get(0)
        cache.put(next(numbers) % 5, 1, 100)

    for _ in moments(put):
        for _ in range(3):
            put()
        assert cache._bytes == sum(entry.size for entry in cache._entries.values())
        assert len(cache._entries) == 3


def test_a_breaker_keeps_its_counts() -> None:
    policy = BreakerPolicy(
        failures=3, window=3, min_outcomes=3, error_share=0.7, slow_share=0.7, cool_down_s=1.0
    )
    breaker, numbers = CircuitBreaker(policy, clock=itertools.count().__next__), itertools.count()

    def use() -> None:
        given, kind = breaker.admit(), next(numbers) % 5
        if kind in (0, 2):
            breaker.failed(given, "no")
        else:
            breaker.succeeded(given, slow=kind == 1)

    for _ in range(7):
        for _ in moments(use):
            assert breaker._failed == sum(failed for _, failed, _ in breaker._outcomes)
            assert breaker._slow == sum(slow for _, _, slow in breaker._outcomes)


def test_a_version_counts_its_leases() -> None:
    spec: Any = None  # of no use here
    version = Version(1, spec, Pipeline([Empty()]))

    def ask() -> None:
        with version.lease() as leased:
            assert leased

    for _ in moments(ask):
        assert version._leases == 0
    version.retire()
    assert version.wait_closed(60)


def test_queries_of_a_whole_pipeline(world: World) -> None:
    with Pipeline.open(world.snapshot, world.config) as pipeline:
        pipeline.warm_up()
        ask: Callable[[], Any] = lambda: pipeline.search(world.queries[0], budget_ms=math.inf)  # noqa: E731
        before = ask()
        assert not before.degradations
        for _ in moments(ask, step=11):
            assert pipeline.load == (0, 0)
        after = ask()
    assert not after.degradations
    assert [hit.id for hit in after] == [hit.id for hit in before]
