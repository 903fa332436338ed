"""A search that the query's thread and the one that began it work on together."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from searchpipe.cost_model import CostModel
from searchpipe.stages.early_searches import EarlySearches

LONG = 20.0


class Divided:
    """Two parts; one thread that takes the first waits there for another to take the second."""

    def __init__(self, lonely=False, error=None):
        self.threads, self.error = [], error
        self.second, self.done, self.parts = threading.Event(), threading.Event(), [1] if lonely else [1, 2]
        self._lock = threading.Lock()
        self.seconds = 0.25

    @property
    def ended(self):
        return self.done.is_set()

    def run(self, seconds=math.inf):
        with self._lock:
            part = self.parts.pop(0) if self.parts and seconds > 0 else None
        if part is None:
            return
        self.threads.append(threading.get_ident())
        if part == 1:
            assert self.second.wait(LONG)
            self.done.set()
        self.second.set()

    def wait(self, seconds=math.inf):
        return self.done.wait(min(max(seconds, 0.0), LONG))

    def found(self):
        assert self.ended
        if self.error is not None:
            raise self.error
        return np.array([7], np.int32), np.ones(1, np.float32)


class Source:
    name = "lexical"

    def __init__(self, divided):
        self._divided, self.begun = divided, threading.Event()

    def ready(self, work):
        return True

    def divided(self, work, depth, mask):
        self.begun.set()
        return self._divided

    def search(self, work, depth, mask):
        raise AssertionError("it is divided")


@pytest.fixture
def begun(make_work):
    pools = []

    def begin(divided, **asked):
        pool = ThreadPoolExecutor(1)
        pools.append((pool, divided))
        work, source = make_work(**asked), Source(divided)
        search = EarlySearches(pool).begin(source, work, 3, None)
        assert source.begun.wait(LONG)
        while search._divided is None or (divided.parts and divided.parts[0] == 1):
            assert not divided.ended
        return search, work

    yield begin
    for pool, divided in pools:
        divided.second.set()
        pool.shutdown()


@pytest.mark.parametrize("optional", [False, True])
def test_who_joins_works_on_it_too(begun, optional):
    divided = Divided()
    search, work = begun(divided)
    assert search.found() is None
    assert search.join(work, optional=optional)[0].tolist() == [7]
    assert len(set(divided.threads)) == 2
    assert divided.threads[1] == threading.get_ident()
    assert search.found()[0].tolist() == [7]
    told = CostModel()
    told.observe("lexical", 3, divided.seconds)
    assert work.costs.predict("lexical", 3) == told.predict("lexical", 3)


@pytest.mark.parametrize("budget_ms", [math.inf, 60_000.0])
def test_who_joins_before_the_other_thread_has_divided_it_gets_the_answer(make_work, budget_ms):
    divided, gate = Divided(lonely=True), threading.Event()
    divided.second.set()

    class Slow(Source):
        def divided(self, work, depth, mask):
            super().divided(work, depth, mask)
            assert gate.wait(LONG)
            return divided

    source, work = Slow(divided), make_work(budget_ms=budget_ms)
    with ThreadPoolExecutor(1) as pool:
        search = EarlySearches(pool).begin(source, work, 3, None)
        assert source.begun.wait(LONG)
        threading.Timer(0.05, gate.set).start()
        assert search.join(work, optional=True)[0].tolist() == [7]
    assert divided.threads != [threading.get_ident()]


def test_who_has_nothing_else_to_do_helps(begun):
    divided = Divided()
    search, work = begun(divided)
    search.help(0.0)  # no time for that
    assert threading.get_ident() not in divided.threads
    search.help(LONG)
    assert divided.done.wait(LONG)
    assert threading.get_ident() in divided.threads
    search.help(LONG)  # nothing is left
    assert search.join(work, optional=True)[0].tolist() == [7]
    assert len(divided.threads) == 2


def test_what_is_late_is_left_to_the_other_thread(begun):
    divided = Divided(lonely=True)
    search, work = begun(divided, budget_ms=30.0)
    assert search.join(work, optional=True) is None
    assert search.found() is None
    divided.second.set()
    assert divided.done.wait(LONG)
    assert search.found()[0].tolist() == [7]


def test_its_failure_is_raised_by_who_joins(begun):
    search, work = begun(Divided(error=ValueError("damaged")))
    with pytest.raises(ValueError, match="damaged"):
        search.join(work, optional=False)


def test_helping_what_no_thread_has_begun_does_nothing(make_work):
    gate, divided = threading.Event(), Divided()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait, LONG)
        search = EarlySearches(pool).begin(Source(divided), make_work(), 3, None)
        search.help(LONG)
        assert not divided.threads
        assert search._claim.acquire(blocking=False)  # so that the pool does not wait for its second part
        gate.set()
