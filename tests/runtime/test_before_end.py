"""What a lone caller does shortly before its request ends: at most once, in no one's way, at no risk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.row_model import ENGINES, Built, expected_texts

TEXTS = [np.full(n, 2000 + n, np.int32) for n in (3, 9, 20)]
WATCHED = ["graph", "graph-2-lanes", "packed", "packed-2-lanes"]
TRIES = 40
"""A thread that wakes too late does without: on a busy machine that happens."""


@pytest.fixture(params=WATCHED)
def slow(request: pytest.FixtureRequest, device: _core.Device, fake: FakeDriver) -> Iterator[Built]:
    """An engine that takes long enough for something to be done before its end."""
    fake.delay(5000)
    built = ENGINES[request.param](device, [(4, 32)])
    yield built
    fake.reset()
    built.scorer.close(drain=False)


def prepare(scorer: _core.Scorer) -> _core.Ticket:
    return scorer.prepare_texts(TEXTS, cls_id=101, sep_id=102)


def assert_scored(ticket: _core.Ticket) -> None:
    assert ticket.status == "done", ticket.error
    np.testing.assert_array_equal(ticket.scores(), expected_texts(TEXTS, 1).reshape(-1))


def until_called(run: Callable[[Callable[[], None]], object]) -> int:
    """Run with something to be called, until it has been; how often it was then."""
    calls: list[int] = []
    for _ in range(TRIES):
        run(lambda: calls.append(threading.get_ident()))
        if calls:
            break
    assert set(calls) == {threading.get_ident()}
    return len(calls)


def test_it_is_called_once_on_the_callers_thread_before_the_end(slow: Built, fake: FakeDriver) -> None:
    for _ in range(TRIES):
        ticket = prepare(slow.scorer)
        order: list[str] = []

        def before_end(it: _core.Ticket = ticket, order: list[str] = order) -> None:
            order.append(f"before the end, {it.status}")
            fake.hold(False)  # the device cannot have ended before this

        def give_up(order: list[str] = order) -> None:
            order.append("not called")
            fake.hold(False)

        fake.hold()
        timer = threading.Timer(0.5, give_up)
        timer.start()
        assert slow.scorer.run(ticket, 30, lambda order=order: order.append("meanwhile"), before_end)
        timer.cancel()
        timer.join()
        assert_scored(ticket)
        if "not called" not in order:
            break
    assert order == ["meanwhile", "before the end, pending"]


def test_not_while_another_request_waits_or_runs(slow: Built) -> None:
    called: list[str] = []
    for _ in range(5):
        ticket, other = prepare(slow.scorer), prepare(slow.scorer)
        submit = slow.scorer.submit
        assert slow.scorer.run(
            ticket, 30, lambda it=other, submit=submit: submit(it), lambda: called.append("x")
        )
        assert other.wait(30)
        assert_scored(ticket)
        assert_scored(other)
    assert called == []
    assert until_called(lambda it: slow.scorer.run(prepare(slow.scorer), 30, None, it)) == 1


def test_not_once_the_batch_has_ended(slow: Built, fake: FakeDriver) -> None:
    called: list[str] = []
    fake.delay(0)  # it ends milliseconds before it is expected to
    for _ in range(3):
        ticket = prepare(slow.scorer)
        assert slow.scorer.run(ticket, 30, None, lambda: called.append("x"))
        assert_scored(ticket)
    assert called == []


def test_not_if_the_time_is_up_before(slow: Built) -> None:
    called: list[str] = []
    for _ in range(3):
        ticket = prepare(slow.scorer)
        assert not slow.scorer.run(ticket, 0.001, None, lambda: called.append("x"))
        assert ticket.wait(30)
    assert called == []


def test_not_for_who_leaves(slow: Built) -> None:
    called: list[str] = []
    ticket = prepare(slow.scorer)
    assert slow.scorer.run(ticket, 30, ticket.cancel, lambda: called.append("x"))
    assert called == []
    assert ticket.status == "cancelled"


def test_what_it_raises_comes_out_after_the_end(slow: Built) -> None:
    raised = []
    for _ in range(TRIES):
        ticket = prepare(slow.scorer)

        def fail() -> None:
            raise RuntimeError("no memory")

        try:
            slow.scorer.run(ticket, 30, None, fail)
        except RuntimeError as error:
            raised.append(str(error))
        assert_scored(ticket)
        if raised:
            break
    assert raised == ["no memory"]


def test_a_chain_hands_it_on_and_ignores_what_it_raises(slow: Built) -> None:
    chain = EngineChain([Link("slow", lambda: Opened(slow.executor, lambda: None, "slow"))])
    expected = chain.run(prepare)
    called: list[str] = []

    def fail() -> None:
        called.append("x")
        raise RuntimeError("no memory")

    for _ in range(TRIES):
        np.testing.assert_array_equal(chain.run(prepare, before_end=fail), expected)
        if called:
            break
    assert called == ["x"]
    chain.close()


def test_an_engine_that_nobody_watches_never_calls(device: _core.Device) -> None:
    built = ENGINES["host"](device, [(4, 32)])
    called: list[str] = []
    ticket = prepare(built.scorer)
    assert built.scorer.run(ticket, 30, None, lambda: called.append("x"))
    assert_scored(ticket)
    assert called == []
    built.scorer.close()
