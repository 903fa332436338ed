"""What a caller does while the engine has its request: once, on its own thread, never at the scores' cost."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.deadline import ANSWERING, Deadline, QueryCancelled
from searchpipe.errors import EngineFailedError
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.runtime.row_model import row_scores

TEXTS = [np.full(n, 2000 + n, np.int32) for n in (3, 9, 20)]


def submit(scorer: _core.Scorer) -> _core.Ticket:
    return scorer.submit_texts(TEXTS, cls_id=101, sep_id=102)


class Held:
    """An engine that computes once it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = threading.Event()
        self.error = error
        self.chain = EngineChain([Link("held", self.open)])

    def open(self) -> Opened:
        return Opened(_core.HostExecutor(self.compute, [(4, 32)]), lambda: None, "held")

    def compute(self, ids: np.ndarray, mask: np.ndarray, types: np.ndarray, output: np.ndarray) -> None:
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        output[:] = row_scores(ids, mask, types, output.shape[1])


def test_it_runs_on_the_callers_thread_while_the_engine_has_the_request() -> None:
    held = Held()
    threads: list[int] = []

    def meanwhile() -> None:
        threads.append(threading.get_ident())
        held.go.set()  # the engine cannot end before this

    scores = held.chain.run(submit, timeout=30, meanwhile=meanwhile)
    np.testing.assert_array_equal(scores, held.chain.run(submit))
    assert threads == [threading.get_ident()]
    held.chain.close()


def test_what_it_raises_does_not_lose_the_scores() -> None:
    held = Held()
    held.go.set()
    expected = held.chain.run(submit)

    def fail() -> None:
        raise RuntimeError("no memory")

    np.testing.assert_array_equal(held.chain.run(submit, meanwhile=fail), expected)
    held.chain.close()


def test_an_engine_that_fails_says_so_all_the_same() -> None:
    held = Held(RuntimeError("CUDA error 700"))
    with pytest.raises(EngineFailedError, match="CUDA error 700"):
        held.chain.run(submit, meanwhile=held.go.set)
    held.chain.close()


def test_a_request_that_is_refused_leaves_no_time() -> None:
    held = Held()
    called: list[str] = []

    def refuse(scorer: _core.Scorer) -> _core.Ticket:
        raise ValueError("too long")

    with pytest.raises(ValueError, match="too long"):
        held.chain.run(refuse, meanwhile=lambda: called.append("meanwhile"))
    assert called == []
    held.go.set()
    held.chain.close()


def test_a_caller_who_leaves_meanwhile_is_not_waited_for() -> None:
    held = Held()
    deadline = Deadline(60_000)
    token = ANSWERING.set(deadline)
    # It occupies the engine, so that the next request is still in the queue when its caller leaves.
    first = held.chain.scorer.submit_texts(TEXTS, cls_id=101, sep_id=102)
    try:
        with pytest.raises(QueryCancelled):
            held.chain.run(submit, meanwhile=deadline.cancel)
    finally:
        ANSWERING.reset(token)
        held.go.set()
    assert first.wait(30)
    held.chain.close()
