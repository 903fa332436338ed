"""A lone caller searches at once, in its own thread, without a queue."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from searchpipe.errors import ClosedError, EngineError
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.lookup import Found
from searchpipe.recall.policy import CoalescePolicy
from tests.recall.callers import LONG, hold, index, queue, until, vector

__all__ = ["index"]  # a fixture


def test_a_lone_caller_is_searched_in_its_own_thread(index):
    inside = []
    index.search_batch = lambda lookups: [
        (inside.append(threading.get_ident()), Found(np.array([1]), np.ones(1, np.float32)))[1]
        for _ in lookups
    ]
    dispatcher = Dispatcher(index)
    dispatcher.search(vector(1), 1)
    assert inside == [threading.get_ident()]
    assert dispatcher.stats().lookups == 1


def test_a_lone_caller_is_never_queued(index):
    class Asked(CoalescePolicy):
        cuts = 0

        def cut(self, *args):
            Asked.cuts += 1
            return super().cut(*args)

    dispatcher = Dispatcher(index, policy=Asked())
    assert [int(dispatcher.search(vector(n), 1)[0][0]) for n in range(3)] == [0, 1, 2]
    assert Asked.cuts == 0
    stats = dispatcher.stats()
    assert (stats.searches, stats.lookups, stats.largest, stats.waiting) == (3, 3, 1, 0)
    assert stats.cost_s > 0
    leader = hold(index, dispatcher)
    others = queue(dispatcher, [1, 2])
    index.gate.set()
    assert [one.end() for one in (leader, *others)] == [0, 1, 2]
    assert Asked.cuts == 1


def test_a_lone_callers_failure_frees_the_lead(index):
    dispatcher = Dispatcher(index)
    index.fail = RuntimeError("device lost")
    with pytest.raises(EngineError, match="RuntimeError: device lost") as failure:
        dispatcher.search(vector(1), 1)
    assert isinstance(failure.value.__cause__, RuntimeError)
    index.fail = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        dispatcher.search(vector(1), 1)
    assert int(dispatcher.search(vector(2), 1)[0][0]) == 2
    assert (dispatcher.stats().failures, dispatcher.stats().searches) == (2, 1)


def test_closing_waits_for_a_lone_caller(index):
    dispatcher = Dispatcher(index)
    leader = hold(index, dispatcher)
    closer = threading.Thread(target=dispatcher.close, daemon=True)
    closer.start()
    until(lambda: dispatcher._closed)
    assert closer.is_alive()
    index.gate.set()
    closer.join(LONG)
    assert not closer.is_alive()
    assert leader.end() == 0
    with pytest.raises(ClosedError):
        dispatcher.search(vector(1), 1)
