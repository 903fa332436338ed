"""A lone caller that leaves, fails or is closed upon: what it has begun is ended by somebody, always."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.deadline import ANSWERING, Deadline, QueryCancelled
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.row_model import ENGINES, Built, expected_pairs, expected_texts, kernel_engine

BUCKETS = [(32, 64)]
QUERY = np.array([2000, 2001], np.int32)
TEXTS = [np.full(n, 2000 + n, np.int32) for n in (3, 9, 20)]


@pytest.fixture
def built(device: _core.Device, fake: FakeDriver) -> Iterator[Built]:
    built = ENGINES["graph"](device, BUCKETS)
    yield built
    fake.reset()
    built.scorer.close(drain=False)


Prepare = Callable[..., _core.Ticket]


@pytest.fixture
def prepare(built: Built, packer: _core.PairPacker, store: _core.TokenStore) -> Prepare:
    def make(count: int = 20, **options: float) -> _core.Ticket:
        docs = np.arange(count, dtype=np.int32)
        return built.scorer.prepare_pairs(packer, store, QUERY, docs, **options)

    return make


def begin(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run it on a thread of its own; what it gave or raised comes into the list."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def assert_answers(built: Built, prepare: Prepare, store: _core.TokenStore) -> None:
    ticket = prepare()
    assert built.scorer.run(ticket, 30)
    assert ticket.status == "done", ticket.error
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(20)))
    until(lambda: built.scorer.stats().batches_in_flight == 0)


@pytest.mark.parametrize("timeout", [0.0, 0.001, 0.25])
def test_who_goes_when_the_time_is_up_leaves_the_batch_to_others(
    built: Built, prepare: Prepare, store: _core.TokenStore, fake: FakeDriver, timeout: float
) -> None:
    fake.hold()
    ticket = prepare()
    assert not built.scorer.run(ticket, timeout)
    assert ticket.status == "pending"
    assert built.scorer.stats().batches_in_flight == 1
    waiting, ended = begin(lambda: ticket.wait(30))
    fake.hold(False)
    waiting.join(30)
    assert ended == [True]
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(20)))
    assert built.scorer.stats().lone_batches == 1
    assert_answers(built, prepare, store)


def test_an_overdue_batch_is_left_to_the_completion_thread(
    built: Built, prepare: Prepare, store: _core.TokenStore, fake: FakeDriver
) -> None:
    fake.hold()
    asked = fake.count("cuEventSynchronize")
    ticket = prepare()
    running, ended = begin(lambda: built.scorer.run(ticket))
    until(lambda: fake.count("cuEventSynchronize") > asked)  # as the completion thread does in the end
    fake.hold(False)
    running.join(30)
    assert ended == [True]
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(20)))
    stats = built.scorer.stats()
    assert (stats.batches, stats.lone_batches) == (1, 1)


def test_others_come_while_one_runs_alone(
    built: Built, prepare: Prepare, store: _core.TokenStore, fake: FakeDriver
) -> None:
    fake.hold()
    first = prepare(5)
    running, ended = begin(lambda: built.scorer.run(first))
    until(lambda: built.scorer.stats().batches_in_flight == 1)
    tickets = [prepare(count) for count in (7, 20, 30)]
    others = [begin(lambda it=it: built.scorer.run(it)) for it in tickets]
    until(lambda: built.scorer.stats().requests == 4)
    until(lambda: built.scorer.stats().batches_in_flight > 1)
    fake.hold(False)
    for thread, _ in [(running, ended), *others]:
        thread.join(30)
        assert not thread.is_alive()
    for ticket, count in zip([first, *tickets], (5, 7, 20, 30), strict=True):
        np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(count)))


def test_a_cancelled_caller_leaves_at_once(
    built: Built, prepare: Prepare, store: _core.TokenStore, fake: FakeDriver
) -> None:
    fake.hold()
    ticket = prepare()
    running, ended = begin(lambda: built.scorer.run(ticket))
    until(lambda: built.scorer.stats().batches_in_flight == 1)
    assert ticket.cancel()
    running.join(30)  # while the device still stands
    assert ended == [True]
    assert ticket.status == "cancelled"
    fake.hold(False)
    assert_answers(built, prepare, store)


def test_a_cancelled_query_leaves_a_device_that_stands(device: _core.Device, fake: FakeDriver) -> None:
    engine = kernel_engine(device, BUCKETS, [])
    ring = _core.StagingRing([engine])
    chain = EngineChain([Link("gpu", lambda: Opened(ring, engine.close))])
    leaving = Deadline(60_000)

    def ask() -> object:
        ANSWERING.set(leaving)
        return chain.run(lambda it: it.prepare_texts(TEXTS, cls_id=101, sep_id=102))

    fake.hold()
    gone, told = begin(ask)
    until(lambda: chain.scorer.stats().batches_in_flight == 1)
    leaving.cancel()
    gone.join(30)
    assert isinstance(told[0], QueryCancelled)
    fake.hold(False)
    scores = chain.run(lambda it: it.prepare_texts(TEXTS, cls_id=101, sep_id=102), timeout=30)
    np.testing.assert_array_equal(scores, expected_texts(TEXTS, 1)[:, 0])
    assert chain.states[0].breaker == "closed"
    chain.close()


@pytest.mark.parametrize("drain", [True, False])
def test_closing_waits_for_what_a_caller_has_begun(
    built: Built, prepare: Prepare, store: _core.TokenStore, fake: FakeDriver, drain: bool
) -> None:
    fake.hold()
    ticket = prepare()
    running, ended = begin(lambda: built.scorer.run(ticket))
    until(lambda: built.scorer.stats().batches_in_flight == 1)
    closing, _ = begin(lambda: built.scorer.close(drain=drain))
    closing.join(0.05)
    assert closing.is_alive()
    fake.hold(False)
    closing.join(30)
    running.join(30)
    assert not closing.is_alive()
    assert ended == [True]
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(20)))


@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync", "cuEventRecord"])
def test_a_call_that_fails_once_fails_one_request(
    built: Built, prepare: Prepare, store: _core.TokenStore, fake: FakeDriver, call: str
) -> None:
    fake.fail_call(call)
    ticket = prepare(5)
    assert built.scorer.run(ticket, 30)
    assert ticket.status == "failed"
    assert f"{call} failed: CUDA_ERROR_LAUNCH_FAILED (719)" in ticket.error
    assert_answers(built, prepare, store)


def test_a_batch_that_cannot_be_watched_any_more_fails(
    built: Built, prepare: Prepare, store: _core.TokenStore, fake: FakeDriver
) -> None:
    fake.fail_call("cuEventQuery")
    ticket = prepare(5)
    assert built.scorer.run(ticket, 30)
    assert ticket.status == "failed"
    assert built.scorer.stats().failed_batches == 1
    assert_answers(built, prepare, store)


@pytest.mark.parametrize("work", ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync"])
def test_a_dead_context_fails_everything_and_hangs_nothing(
    built: Built, prepare: Prepare, fake: FakeDriver, work: str
) -> None:
    fake.fail_work(work)
    for _ in range(3):
        ticket = prepare(40)
        assert built.scorer.run(ticket, 30)
        assert ticket.status == "failed"
        assert "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in ticket.error
    built.scorer.close()


def test_signals_come_through_and_the_batch_ends_without_its_caller(
    built: Built, prepare: Prepare, store: _core.TokenStore, fake: FakeDriver
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    fake.hold()
    ticket = prepare()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            built.scorer.run(ticket, 30)
    finally:
        signal.signal(signal.SIGALRM, before)
    fake.hold(False)
    assert ticket.wait(30)
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(20)))
    assert_answers(built, prepare, store)
