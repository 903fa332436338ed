"""Rows of callers who have left are dropped before the batch is cut, on an engine that can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe import _core
from searchpipe.arrays import Int32
from searchpipe.deadline import ANSWERING, Deadline, QueryCancelled
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.runtime.row_model import expected_texts, row_scores

BUCKETS = [(4, 16), (16, 16)]


class Stopped:
    """An engine that computes nothing until it is let go, one batch after the other."""

    def __init__(self) -> None:
        self.go, self.entered = threading.Event(), threading.Semaphore(0)
        self.computed: list[int] = []  # first tokens of the rows, in the order in which they ran
        self.executor = _core.HostExecutor(self.compute, BUCKETS, slots=1)

    def compute(self, ids: Int32, mask: Int32, types: Int32, output: np.ndarray) -> None:
        self.entered.release()
        assert self.go.wait(30)
        self.computed += [int(row[1]) for row, real in zip(ids, mask, strict=True) if real[0]]
        output[:] = row_scores(ids, mask, types, output.shape[1])


def rows_of(name: int, count: int) -> list[Int32]:
    return [np.full(5, name, np.int32) for _ in range(count)]


def submit(scorer: _core.Scorer, name: int, count: int) -> _core.Ticket:
    return scorer.submit_texts(rows_of(name, count), cls_id=101, sep_id=102)


@pytest.fixture
def engine() -> Stopped:
    return Stopped()


@pytest.fixture
def scorer(engine: Stopped) -> Iterator[_core.Scorer]:
    scorer = _core.Scorer(engine.executor)
    yield scorer
    engine.go.set()
    scorer.close(drain=False)


def test_only_the_rows_of_who_stayed_are_computed(engine: Stopped, scorer: _core.Scorer) -> None:
    first = submit(scorer, 7, 1)
    assert engine.entered.acquire(timeout=30)
    a, b = submit(scorer, 1000, 5), submit(scorer, 2000, 6)
    assert a.cancel()
    engine.go.set()
    assert first.wait(30)
    assert b.wait(30)
    np.testing.assert_array_equal(b.scores(), expected_texts(rows_of(2000, 6), 1)[:, 0])
    stats = scorer.stats()
    assert engine.computed == [7] + [2000] * 6
    assert (stats.requests, stats.batches, stats.rows, stats.queued_rows) == (3, 2, 7, 0)
    assert (a.status, a.scored) == ("cancelled", 0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=12))
def test_whoever_leaves_the_others_get_theirs_and_no_more_is_computed(
    requests: list[tuple[int, bool]],
) -> None:
    engine = Stopped()
    scorer = _core.Scorer(engine.executor)
    first = submit(scorer, 7, 1)
    assert engine.entered.acquire(timeout=30)
    tickets = [submit(scorer, 1000 + place, count) for place, (count, _) in enumerate(requests)]
    for ticket, (_, leaves) in zip(tickets, requests, strict=True):
        assert not leaves or ticket.cancel()
    engine.go.set()
    for ticket in (first, *tickets):
        assert ticket.wait(30)
    scorer.close()
    staying = [
        1000 + place for place, (count, leaves) in enumerate(requests) for _ in range(count) if not leaves
    ]
    assert sorted(engine.computed) == [7, *staying]
    assert scorer.stats().rows == 1 + len(staying)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def test_a_query_that_is_cancelled_leaves_the_engine_at_once(engine: Stopped) -> None:
    chain = EngineChain([Link("host", lambda: Opened(engine.executor, lambda: None))])
    holder, _ = in_thread(lambda: chain.run(lambda scorer: submit(scorer, 7, 1)))
    assert engine.entered.acquire(timeout=30)
    leaving, staying = Deadline(60_000), Deadline(60_000)

    def query(deadline: Deadline, name: int) -> object:
        ANSWERING.set(deadline)
        return chain.run(lambda scorer: submit(scorer, name, 3))

    gone, told = in_thread(lambda: query(leaving, 1000))
    other, found = in_thread(lambda: query(staying, 2000))
    while chain.scorer.stats().requests < 3:
        gone.join(0.001)
    leaving.cancel()
    gone.join(30)  # while the engine still stands
    assert not gone.is_alive()
    assert isinstance(told[0], QueryCancelled)
    engine.go.set()
    for thread in (holder, other):
        thread.join(30)
    np.testing.assert_array_equal(found[0], expected_texts(rows_of(2000, 3), 1)[:, 0])
    assert engine.computed == [7, 2000, 2000, 2000]
    assert chain.states[0].breaker == "closed"
    # One that had left before it asked.
    late, told = in_thread(lambda: query(leaving, 3000))
    late.join(30)
    assert isinstance(told[0], QueryCancelled)
    chain.close()


def test_leaving_is_told_once_it_happens_and_to_who_comes_after() -> None:
    deadline, told = Deadline(1000), []
    with deadline.on_cancel(lambda: told.append("inside")):
        assert told == []
        deadline.cancel()
    assert told == ["inside"]
    with deadline.on_cancel(lambda: told.append("after")):
        assert told == ["inside", "after"]
    deadline.cancel()  # nobody waits any more
    assert told == ["inside", "after"]
