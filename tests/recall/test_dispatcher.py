"""One thread inside the index, everybody answered, and failures that stay where they happen."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from searchpipe.errors import ClosedError, EngineError, OverloadedError, QueryError, RecallTimeoutError
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.policy import CoalescePolicy
from tests.recall.callers import LONG, Caller, hold, index, queue, until, vector

__all__ = ["index"]  # a fixture


def test_what_arrives_during_a_search_is_the_next_batch(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    others = queue(dispatcher, [1, 2, 3])
    index.gate.set()
    assert [leader.end(), *(other.end() for other in others)] == [0, 1, 2, 3]
    assert index.batches == [[0.0], [1.0, 2.0, 3.0]]
    stats = dispatcher.stats()
    assert (stats.searches, stats.lookups, stats.largest, stats.waiting) == (2, 4, 3, 0)


def test_nothing_keeps_a_vector_after_its_search(index):
    dispatcher = Dispatcher(index, policy=CoalescePolicy(max_delay_s=0.001))
    gc.disable()  # whose place in device memory is lent again only then
    try:
        one = vector(1)
        kept = weakref.ref(one)
        dispatcher.search(one, 1)
        del one
        assert kept() is None
    finally:
        gc.enable()


def test_batches_are_no_larger_than_allowed(index):
    dispatcher = Dispatcher(index, policy=CoalescePolicy(max_batch=2))
    leader = hold(index, dispatcher)
    others = queue(dispatcher, [1, 2, 3, 4, 5])
    index.gate.set()
    assert [leader.end(), *(other.end() for other in others)] == [0, 1, 2, 3, 4, 5]
    assert index.batches == [[0.0], [1.0, 2.0], [3.0, 4.0], [5.0]]


def test_only_lookups_with_the_same_mask_share_a_search(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    mask = np.ones(3, bool)
    others = queue(dispatcher, [1]) + queue(dispatcher, [2], mask=mask) + queue(dispatcher, [3])
    others += queue(dispatcher, [4], mask=mask)
    index.gate.set()
    assert [other.end() for other in (leader, *others)] == [0, 1, 2, 3, 4]
    assert index.batches == [[0.0], [1.0, 3.0], [2.0, 4.0]]


def test_a_failed_batch_fails_its_callers_and_nobody_else(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    others = queue(dispatcher, [1, 2])
    index.fail = EngineError("device lost")
    index.gate.set()
    assert isinstance(leader.end(), EngineError)
    assert "device lost" in str(leader.error)
    assert [other.end() for other in others] == [1, 2]
    assert dispatcher.stats().failures == 1


def test_each_caller_of_a_failed_batch_has_an_error_of_its_own(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    others = queue(dispatcher, [1, 2])
    real = index.search_batch

    def fails_for_two(lookups):
        if len(lookups) == 2:
            raise RuntimeError("out of memory")
        return real(lookups)

    index.search_batch = fails_for_two
    index.gate.set()
    assert leader.end() == 0
    errors = [other.end() for other in others]
    assert all(isinstance(error, EngineError) and "out of memory" in str(error) for error in errors)
    assert errors[0] is not errors[1]


def test_an_interrupt_of_the_leader_does_not_strand_the_others(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    others = queue(dispatcher, [1])
    index.fail = KeyboardInterrupt()
    index.gate.set()
    assert isinstance(leader.end(), KeyboardInterrupt)
    assert others[0].end() == 1


def test_the_wrong_number_of_results_is_an_error(index):
    index.search_batch = lambda lookups: []
    with pytest.raises(EngineError, match="0 results for 1 lookups"):
        Dispatcher(index).search(vector(1), 1)


def test_a_bad_lookup_is_refused_before_it_shares_a_search(index):
    dispatcher = Dispatcher(index)
    with pytest.raises(QueryError, match="negative"):
        dispatcher.search(vector(-1), 1)
    for k in (0, 11):
        with pytest.raises(QueryError, match="1 to 10"):
            dispatcher.search(vector(1), k)
    assert index.batches == []


def test_a_caller_whose_time_is_up_leaves_and_is_not_searched(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    late = Caller(dispatcher, 1, timeout_s=0.02)
    assert isinstance(late.end(), RecallTimeoutError)
    index.gate.set()
    assert leader.end() == 0
    assert dispatcher.search(vector(2), 1)[0] == [2]
    assert index.batches == [[0.0], [2.0]]
    assert dispatcher.stats().dropped == 1


def test_a_caller_who_has_left_is_dropped(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    left = threading.Event()
    caller = Caller(dispatcher, 1, departed=left.is_set)
    until(lambda: dispatcher.stats().waiting == 1)
    left.set()
    assert isinstance(caller.end(), RecallTimeoutError)
    assert dispatcher.stats().waiting == 0
    index.gate.set()
    leader.end()
    assert index.batches == [[0.0]]


def test_a_caller_may_leave_while_its_search_runs(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    first, second = queue(dispatcher, [1]), None
    second = queue(dispatcher, [2], timeout_s=0.5)
    index.gate.set()
    leader.end()
    first[0].end()
    second[0].end()
    index.gate.clear()
    leader = Caller(dispatcher, 3)
    until(lambda: index.batches[-1] == [3.0])
    follower = queue(dispatcher, [4, 5], timeout_s=LONG)
    impatient = queue(dispatcher, [6], timeout_s=0.05)
    assert isinstance(impatient[0].end(), RecallTimeoutError)
    index.gate.set()
    assert [leader.end(), *(one.end() for one in follower)] == [3, 4, 5]


def test_no_time_at_all_is_a_timeout_and_frees_the_lead(index):
    dispatcher = Dispatcher(index)
    with pytest.raises(RecallTimeoutError):
        dispatcher.search(vector(1), 1, timeout_s=0.0)
    assert dispatcher.search(vector(2), 1)[0] == [2]
    assert index.batches == [[2.0]]


def test_too_many_waiting_are_refused(index):
    dispatcher = Dispatcher(index, policy=CoalescePolicy(max_waiting=2))
    leader = hold(index, dispatcher)
    others = queue(dispatcher, [1, 2])
    with pytest.raises(OverloadedError, match="2 lookups wait"):
        dispatcher.search(vector(3), 1)
    index.gate.set()
    assert [one.end() for one in (leader, *others)] == [0, 1, 2]


def test_an_idle_index_waits_for_company_when_told_to(index):
    dispatcher = Dispatcher(index, policy=CoalescePolicy(max_batch=2, max_delay_s=0.9))
    first = Caller(dispatcher, 1)
    until(lambda: dispatcher.stats().waiting == 1)
    second = Caller(dispatcher, 2)
    assert (first.end(), second.end()) == (1, 2)
    assert index.batches == [[1.0, 2.0]]


def test_closing_answers_those_that_wait_and_refuses_new_ones(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    others = queue(dispatcher, [1, 2])
    closer = threading.Thread(target=dispatcher.close, daemon=True)
    closer.start()
    until(lambda: dispatcher._closed)
    with pytest.raises(ClosedError):
        dispatcher.search(vector(3), 1)
    assert closer.is_alive()
    index.gate.set()
    closer.join(LONG)
    assert not closer.is_alive()
    assert [one.end() for one in (leader, *others)] == [0, 1, 2]
    dispatcher.close()


def test_many_threads_each_get_their_own_answer(index):
    dispatcher = Dispatcher(index, policy=CoalescePolicy(max_batch=8))
    wrong = []

    def ask(thread):
        for turn in range(50):
            value = thread * 1000 + turn
            if int(dispatcher.search(vector(value), 1)[0][0]) != value:
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    stats = dispatcher.stats()
    assert stats.lookups == 1600
    assert stats.waiting == 0
    assert stats.largest <= 8
