"""Searches are handed to threads that linger; nothing is searched twice, lost, or kept alive."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from searchpipe.stages.early_searches import EarlySearches

LONG = 20.0


class Source:
    name = "lexical"

    def __init__(self, gate=None):
        self.gate = gate
        self.threads = []
        self.begun = threading.Semaphore(0)

    def ready(self, work):
        return True

    def search(self, work, depth, mask):
        self.threads.append(threading.get_ident())
        self.begun.release()
        assert self.gate is None or self.gate.wait(LONG)
        return np.array([depth], np.int32), np.ones(1, np.float32)


class Counting(ThreadPoolExecutor):
    submitted = 0

    def submit(self, *args, **named):
        self.submitted += 1
        return super().submit(*args, **named)


def until(condition):
    limit = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_a_thread_lingers_for_the_next_search(make_work, monkeypatch):
    monkeypatch.setattr("searchpipe.stages.early_searches._LINGER_S", LONG)
    monkeypatch.setattr("searchpipe.stages.early_searches._TURN_S", LONG)
    source, work = Source(), make_work()
    pool = Counting(2)
    searches = EarlySearches(pool)
    for turn in range(20):
        begun = searches.begin(source, work, turn, None)
        assert source.begun.acquire(timeout=LONG)
        assert begun.join(work, optional=False)[0].tolist() == [turn]
        until(lambda: len(searches._idle) == 1)
    assert pool.submitted == 1
    assert set(source.threads) == {source.threads[0]} != {threading.get_ident()}
    monkeypatch.setattr("searchpipe.stages.early_searches._LINGER_S", 0.0)
    searches.begin(source, work, 1, None).join(work, optional=False)  # wakes it to linger no more
    pool.shutdown()
    assert searches._idle == []


def test_threads_end_by_themselves_and_come_back(make_work, monkeypatch):
    monkeypatch.setattr("searchpipe.stages.early_searches._LINGER_S", 0.001)
    source, work = Source(), make_work()
    with Counting(2) as pool:
        searches = EarlySearches(pool)
        for turn in range(5):
            begun = searches.begin(source, work, turn, None)
            assert source.begun.acquire(timeout=LONG)
            assert begun.join(work, optional=False)[0].tolist() == [turn]
            until(lambda: not searches._idle)
        assert pool.submitted >= 2


def test_a_thread_asks_for_another_turn(make_work, monkeypatch):
    monkeypatch.setattr("searchpipe.stages.early_searches._LINGER_S", LONG)
    monkeypatch.setattr("searchpipe.stages.early_searches._TURN_S", 0.0)
    source, work = Source(), make_work()
    pool = Counting(1)
    searches = EarlySearches(pool)
    begun = searches.begin(source, work, 1, None)
    until(lambda: pool.submitted > 2)  # without any search in between
    assert begun.join(work, optional=False)[0].tolist() == [1]
    monkeypatch.setattr("searchpipe.stages.early_searches._TURN_S", LONG)
    until(lambda: len(searches._idle) == 1)
    before = pool.submitted
    assert searches.begin(source, work, 2, None).join(work, optional=False)[0].tolist() == [2]
    assert pool.submitted == before  # handed over, not submitted
    searches.close()
    pool.shutdown()
    assert not searches._queued


def test_threads_that_are_busy_without_end_are_given_back(make_work, monkeypatch):
    monkeypatch.setattr("searchpipe.stages.early_searches._TURN_S", 0.001)
    source, over = Source(), threading.Event()
    pool = ThreadPoolExecutor(2)
    searches = EarlySearches(pool)

    def ask():
        work = make_work()
        while not over.is_set():
            with suppress(RuntimeError):
                searches.begin(source, work, 1, None).join(work, optional=False)

    askers = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for asker in askers:
        asker.start()
    assert source.begun.acquire(timeout=LONG)
    ended = threading.Thread(target=pool.shutdown, daemon=True)
    ended.start()
    ended.join(LONG)
    assert not ended.is_alive()  # though they ask on
    over.set()
    for asker in askers:
        asker.join(LONG)


def test_searches_that_wait_for_a_thread_are_bounded(make_work):
    gate, source, work = threading.Event(), Source(), make_work()
    with Counting(1) as pool:
        pool.submit(gate.wait, LONG)
        searches = EarlySearches(pool)
        for turn in range(100):
            begun = searches.begin(source, work, turn, None)
            assert begun.join(work, optional=False)[0].tolist() == [turn]
        assert pool.submitted <= 17
        gate.set()


def test_what_no_thread_has_begun_the_query_searches_itself(make_work):
    gate, source, work = threading.Event(), Source(), make_work()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait, LONG)
        begun = EarlySearches(pool).begin(source, work, 3, None)
        assert begun.join(work, optional=True)[0].tolist() == [3]
        gate.set()
    assert source.threads == [threading.get_ident()]  # and not once more by the pool


def test_a_shut_down_executor_is_said(make_work):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        EarlySearches(pool).begin(Source(), make_work(), 3, None)


def test_a_lingering_thread_keeps_no_query_alive(make_work, monkeypatch):
    monkeypatch.setattr("searchpipe.stages.early_searches._LINGER_S", 0.5)

    class Mask(np.ndarray):
        pass

    source, work = Source(), make_work()
    with ThreadPoolExecutor(1) as pool:
        searches = EarlySearches(pool)
        for _ in range(2):  # handed over by the executor, and by the lane
            mask = np.ones(4, bool).view(Mask)
            known = weakref.ref(mask)
            begun = searches.begin(source, work, 1, mask)
            assert source.begun.acquire(timeout=LONG)
            begun.join(work, optional=False)
            until(lambda: searches._idle)
            gc.disable()
            try:
                del begun, mask
                assert known() is None
            finally:
                gc.enable()


def test_many_queries_at_once_each_get_their_own_answer(make_work, monkeypatch):
    monkeypatch.setattr("searchpipe.stages.early_searches._LINGER_S", 0.0005)  # often ends as it is taken
    source = Source()
    wrong = []

    def ask(thread):
        work = make_work()
        for turn in range(200):
            depth = thread * 1000 + turn
            begun = searches.begin(source, work, depth, None)
            if turn % 3:
                time.sleep(0.0004)
            if begun.join(work, optional=False)[0].tolist() != [depth]:
                wrong.append(depth)

    with ThreadPoolExecutor(3) as pool:
        searches = EarlySearches(pool)
        threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
    assert not wrong
    assert len(source.threads) == 800


def test_closing_ends_the_threads_that_linger(make_work, monkeypatch):
    monkeypatch.setattr("searchpipe.stages.early_searches._LINGER_S", 3 * LONG)
    pool = ThreadPoolExecutor(2)
    searches = EarlySearches(pool)
    source, work = Source(), make_work()
    begun = searches.begin(source, work, 1, None)
    assert source.begun.acquire(timeout=LONG)
    begun.join(work, optional=False)
    until(lambda: len(searches._idle) == 1)
    searches.close()
    searches.close()
    assert searches.begin(source, work, 1, None).join(work, optional=False) is not None  # lingers no more
    ended = threading.Thread(target=pool.shutdown)
    ended.start()
    ended.join(LONG)
    assert not ended.is_alive()
