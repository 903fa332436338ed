"""A device that fails, holds still or runs out of memory: steered through the fake driver."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.errors import EngineError, OverloadedError
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.row_model import ENGINES, Built, expected_pairs, kernel_engine

BUCKETS = [(8, 32), (8, 64), (32, 64)]
QUERY = np.array([2000, 2001], np.int32)


@pytest.fixture
def built(device: _core.Device, fake: FakeDriver) -> Built:
    return ENGINES["graph"](device, BUCKETS)


def score(
    built: Built, packer: _core.PairPacker, store: _core.TokenStore, count: int, **options: float
) -> _core.Ticket:
    docs = np.arange(count, dtype=np.int32)
    return built.scorer.submit_pairs(packer, store, QUERY, docs, **options)


def assert_answers(built: Built, packer: _core.PairPacker, store: _core.TokenStore) -> None:
    ticket = score(built, packer, store, 20)
    assert ticket.wait(30)
    assert ticket.status == "done", ticket.error
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(20)))


@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync", "cuEventRecord"])
def test_a_call_that_fails_once_fails_one_request(
    built: Built, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore, call: str
) -> None:
    fake.fail_call(call)
    ticket = score(built, packer, store, 5)
    assert ticket.wait(30)
    assert ticket.status == "failed"
    assert f"{call} failed: CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure" in ticket.error
    with pytest.raises(RuntimeError, match="no scores"):
        ticket.scores()
    assert_answers(built, packer, store)
    assert built.scorer.stats().failed_batches == 1


@pytest.mark.parametrize("work", ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync"])
def test_a_dead_context_fails_everything_and_hangs_nothing(
    built: Built, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore, work: str
) -> None:
    fake.fail_work(work)
    tickets = [score(built, packer, store, 40) for _ in range(5)]
    for ticket in tickets:
        assert ticket.wait(30)
        assert ticket.status == "failed"
        assert "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in ticket.error
    built.scorer.close()
    fake.reset()


def test_only_what_could_not_be_started_fails(
    device: _core.Device, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = ENGINES["graph"](device, [(8, 64)])
    fake.hold()
    running = []
    for in_flight in (1, 2, 3):
        running.append(score(built, packer, store, 8))
        while built.scorer.stats().batches_in_flight < in_flight:
            time.sleep(0.001)
    fake.fail_call("cuGraphLaunch")
    unlucky = score(built, packer, store, 8)
    fake.hold(False)
    for ticket in [*running, unlucky]:
        assert ticket.wait(30)
    assert [ticket.status for ticket in running] == ["done"] * 3
    assert unlucky.status == "failed"
    assert_answers(built, packer, store)


def test_cancelled_and_late_requests_take_no_device_time(
    built: Built, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    fake.hold()
    running = []
    while built.scorer.stats().batches_in_flight < 3:
        if built.scorer.stats().queued_rows == 0:  # the worker has to keep up, however busy the machine is
            running.append(score(built, packer, store, 30))
        time.sleep(0.0005)
    late = score(built, packer, store, 30, deadline=time.monotonic() + 0.01)
    gone = score(built, packer, store, 30)
    assert gone.cancel()
    assert not gone.cancel()
    assert gone.status == "cancelled"
    assert not running[0].wait(0.05)
    fake.hold(False)
    assert late.wait(30)
    assert late.scored == 0
    for ticket in running:
        assert ticket.wait(30)
        assert ticket.status == "done"
    built.scorer.close()
    assert built.scorer.stats().rows == 30 * len(running)
    assert built.scorer.stats().late_rows == 30


def test_a_cancelled_request_makes_room_in_a_full_queue(
    device: _core.Device, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = ENGINES["graph"](device, BUCKETS, max_queued_rows=20)
    fake.hold()
    running = []
    while built.scorer.stats().batches_in_flight < 3:
        if built.scorer.stats().queued_rows == 0:
            running.append(score(built, packer, store, 8))
        time.sleep(0.0005)
    waiting = []
    while built.scorer.stats().queued_rows <= 10:
        waiting.append(score(built, packer, store, 10))
    with pytest.raises(OverloadedError, match="rows are queued"):
        score(built, packer, store, 10)
    for ticket in waiting:
        ticket.cancel()
    score(built, packer, store, 10)
    fake.hold(False)
    built.scorer.close()


def test_closing_without_drain_ends_what_waits(
    built: Built, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    fake.delay(2000)
    tickets = [score(built, packer, store, 30) for _ in range(30)]
    built.scorer.close(drain=False)
    statuses = {ticket.status for ticket in tickets}
    assert statuses <= {"done", "closed"}
    assert tickets[-1].status == "closed"
    assert "closed before" in tickets[-1].error


def test_slots_overlap(
    device: _core.Device, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    """While the streams stand still, as many batches are packed and queued as there are slots."""
    for slots in (1, 4):
        built = ENGINES["graph"](device, BUCKETS, slots=slots)
        fake.hold()
        tickets = [score(built, packer, store, 30) for _ in range(8)]
        deadline = time.monotonic() + 10
        while built.scorer.stats().batches_in_flight < slots and time.monotonic() < deadline:
            time.sleep(0.001)
        assert built.scorer.stats().batches_in_flight == slots
        fake.hold(False)
        for ticket in tickets:
            assert ticket.wait(30)
        built.scorer.close()


def test_higher_priority_goes_first(
    device: _core.Device, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = ENGINES["graph"](device, [(8, 64)], slots=1, batch_tokens=1)
    fake.hold()
    first = score(built, packer, store, 1)
    while built.scorer.stats().batches_in_flight < 1:
        time.sleep(0.001)
    ended: list[str] = []
    plan = [("late", 1, None), ("soon", 1, 60.0), ("urgent", 2, None), ("sooner", 1, 30.0)]
    tickets = []
    for name, priority, seconds in plan:
        deadline = None if seconds is None else time.monotonic() + seconds
        ticket = score(built, packer, store, 1, priority=priority, deadline=deadline)
        ticket.on_done(lambda name=name: ended.append(name))
        tickets.append(ticket)
    fake.hold(False)
    for ticket in [first, *tickets]:
        assert ticket.wait(30)
    built.scorer.close()
    assert ended == ["urgent", "sooner", "soon", "late"]


def test_memory_is_flat_and_given_back(
    device: _core.Device, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    before = fake.device_bytes(), fake.pinned_bytes()
    built = ENGINES["graph"](device, BUCKETS)
    assert_answers(built, packer, store)
    warm = fake.device_bytes(), fake.pinned_bytes(), fake.count("cuMemAlloc"), fake.count("cuMemHostAlloc")
    for _ in range(200):
        score(built, packer, store, 20).wait()
    assert warm == (
        fake.device_bytes(),
        fake.pinned_bytes(),
        fake.count("cuMemAlloc"),
        fake.count("cuMemHostAlloc"),
    )
    ring = built.executor
    assert isinstance(ring, _core.StagingRing)
    assert ring.pinned_bytes == fake.pinned_bytes() - before[1]
    built.scorer.close()
    del built, ring
    assert (fake.device_bytes(), fake.pinned_bytes()) == before


def test_freeing_waits_for_the_device_but_not_with_the_gil(device: _core.Device, fake: FakeDriver) -> None:
    """A device that hangs must not stop the process: its memory is freed once all work has ended."""
    held = [_core.DeviceBuffer(device, 1 << 16)]
    target = _core.DeviceBuffer(device, 1 << 16)
    fake.hold()
    writing = threading.Thread(target=target.write, args=(np.zeros(16, np.int32),))
    writing.start()
    while not fake.count("cuMemcpyHtoDAsync"):
        time.sleep(0.001)
    freeing = threading.Thread(target=held.clear)
    freeing.start()
    freeing.join(0.05)
    assert freeing.is_alive()
    fake.hold(False)  # never reached if the other thread waited with the GIL
    freeing.join(30)
    writing.join(30)
    assert not freeing.is_alive()


def test_out_of_memory_names_the_figures(device: _core.Device, fake: FakeDriver) -> None:
    free = device.free_bytes()
    with pytest.raises(
        EngineError, match=rf"cuMemAlloc\({free + 1} bytes, {free} of \d+ free\).*OUT_OF_MEMORY"
    ):
        _core.DeviceBuffer(device, free + 1)
    assert device.free_bytes() == free


def test_a_capture_that_fails_falls_back_with_the_reason(
    device: _core.Device, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    kernel_calls: list[tuple[int, int]] = []
    fake.fail_call("cuStreamBeginCapture", skip=1, code=900)  # the second largest bucket
    engine = kernel_engine(device, BUCKETS, kernel_calls)
    assert [report.captured for report in engine.reports] == [True, False, True]
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in engine.reports[1].reason
    built = Built(_core.Scorer(_core.StagingRing([engine])), None, kernel_calls)
    kernel_calls.clear()
    ticket = score(built, packer, store, 200)
    assert ticket.wait(30)
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(200)))
    assert set(kernel_calls) <= {(8, 64)}
    built.scorer.close()


def test_work_that_synchronises_is_not_captured_but_runs(device: _core.Device, fake: FakeDriver) -> None:
    stream = _core.Stream(device)
    engine = _core.GraphEngine(device, [(4, 16)])
    allocations: list[_core.DeviceBuffer] = []
    engine.set_enqueue(lambda *_: allocations.append(_core.DeviceBuffer(device, 64)))
    engine.prepare()
    assert not engine.reports[0].captured
    assert "STREAM_CAPTURE_UNSUPPORTED" in engine.reports[0].reason
    assert len(allocations) >= 2  # the plain run and the timed ones
    stream.synchronize()
