"""Work on another stream that follows a lone caller's batch, and results that nobody has to wait for."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from searchpipe import _core
from tests.fakes.cuda_driver import FakeDriver, HostFunctions
from tests.runtime.row_model import ENGINES, Built, expected_texts

WIDTH = 5
TEXTS = [np.full(n, 2000 + n, np.int32) for n in (3, 9, 12)]
WATCHED = ["graph", "graph-2-lanes", "packed", "packed-2-lanes"]


def prepare(scorer: _core.Scorer, target: int, texts: list[Any] = TEXTS) -> _core.Ticket:
    return scorer.prepare_texts(texts, cls_id=101, sep_id=102, device_output=target)


class Follower:
    """A stream, and what was in device memory when its work was done."""

    def __init__(self, device: _core.Device, rows: int = len(TEXTS)) -> None:
        self.target = _core.DeviceBuffer(device, rows * WIDTH * 4)
        self.target.write(np.zeros(rows * WIDTH, np.float32))
        self.stream = _core.Stream(device)
        self.functions = HostFunctions()
        self.shape = rows, WIDTH
        self.seen: list[np.ndarray] = []

    def read(self) -> None:
        data = (ctypes.c_char * self.target.nbytes).from_address(self.target.address)
        self.seen.append(np.frombuffer(memoryview(data), np.float32).reshape(self.shape).copy())

    def follow(self) -> _core.Ticket | None:
        ticket = _core.follow_launched(self.target.address, self.stream.handle)
        self.functions.put(self.stream.handle, self.read)
        return ticket


@pytest.mark.parametrize("kind", WATCHED)
def test_the_other_stream_finds_the_rows(kind: str, device: _core.Device, fake: FakeDriver) -> None:
    built = ENGINES[kind](device, [(4, 16)], output_width=WIDTH)
    for _ in range(5):
        it = Follower(device)
        ticket = prepare(built.scorer, it.target.address)
        followed: list[_core.Ticket | None] = []

        def meanwhile(it: Follower = it, followed: list[Any] = followed) -> None:
            followed.append(it.follow())
            fake.hold(False)

        fake.hold()
        assert built.scorer.run(ticket, 30, meanwhile)
        it.stream.synchronize()
        assert followed == [ticket]
        np.testing.assert_array_equal(it.seen[0], expected_texts(TEXTS, WIDTH))
    assert built.scorer.stats().lone_batches == 5
    built.scorer.close()


def test_several_batches_are_all_followed(device: _core.Device, fake: FakeDriver) -> None:
    built = ENGINES["graph"](device, [(3, 4), (1, 16)], output_width=WIDTH, batch_tokens=48)
    it = Follower(device)
    ticket = prepare(built.scorer, it.target.address)
    followed: list[_core.Ticket | None] = []
    waits = fake.count("cuStreamWaitEvent")
    assert built.scorer.run(ticket, 30, lambda: followed.append(it.follow()))
    it.stream.synchronize()
    assert followed == [ticket]
    assert fake.count("cuStreamWaitEvent") >= waits + 3
    np.testing.assert_array_equal(it.seen[0], expected_texts(TEXTS, WIDTH))
    built.scorer.close()


def following(scorer: _core.Scorer, ticket: _core.Ticket, address: int, stream: int) -> Any:
    found: list[_core.Ticket | None] = []
    assert scorer.run(ticket, 30, lambda: found.append(_core.follow_launched(address, stream)))
    return found[0]


def test_there_is_nothing_to_follow(device: _core.Device, fake: FakeDriver) -> None:
    it = Follower(device)
    address, stream = it.target.address, it.stream.handle
    scorer = ENGINES["graph"](device, [(4, 16)], output_width=WIDTH).scorer
    waits = fake.count("cuStreamWaitEvent")
    assert _core.follow_launched(address, stream) is None
    assert following(scorer, prepare(scorer, address), address + 4, stream) is None
    assert following(scorer, prepare(scorer, 0), 0, stream) is None
    assert following(scorer, prepare(scorer, address, []), address, stream) is None
    cancelled = prepare(scorer, address)
    found: list[_core.Ticket | None] = []

    def meanwhile() -> None:
        cancelled.cancel()
        found.append(_core.follow_launched(address, stream))

    assert scorer.run(cancelled, 30, meanwhile)
    assert found == [None]
    assert fake.count("cuStreamWaitEvent") == waits
    scorer.close()


def test_the_place_is_another_threads_to_follow(device: _core.Device, fake: FakeDriver) -> None:
    it = Follower(device)
    scorer = ENGINES["graph"](device, [(4, 16)], output_width=WIDTH).scorer
    found: list[_core.Ticket | None] = []

    def elsewhere() -> None:
        found.append(_core.follow_launched(it.target.address, it.stream.handle))

    def meanwhile() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    assert scorer.run(prepare(scorer, it.target.address), 30, meanwhile)
    assert found == [None]
    scorer.close()


def test_what_was_left_to_the_worker_is_not_followed(device: _core.Device, fake: FakeDriver) -> None:
    # No slot for the third batch; three waves of one batch.
    for options in ({"slots": 2, "batch_tokens": 48}, {"slots": 3, "batch_tokens": 16}):
        scorer = ENGINES["graph"](device, [(3, 4), (1, 16)], output_width=WIDTH, **options).scorer
        it = Follower(device)
        ticket = prepare(scorer, it.target.address)
        assert following(scorer, ticket, it.target.address, it.stream.handle) is None
        scorer.close()


def test_company_is_not_followed(device: _core.Device, fake: FakeDriver) -> None:
    scorer = ENGINES["graph"](device, [(4, 16)], output_width=WIDTH).scorer
    it = Follower(device)
    found: list[_core.Ticket | None] = []

    def meanwhile() -> None:
        found.append(_core.follow_launched(it.target.address, it.stream.handle))
        fake.hold(False)

    fake.hold()
    other = scorer.submit_texts(TEXTS, cls_id=101, sep_id=102)
    ticket = prepare(scorer, it.target.address)
    assert scorer.run(ticket, 30, meanwhile)
    assert other.wait(30)
    assert found == [None]
    assert ticket.status == "done"
    scorer.close()


def test_a_request_inside_another(device: _core.Device, fake: FakeDriver) -> None:
    outer = ENGINES["graph"](device, [(4, 16)], output_width=WIDTH).scorer
    inner = ENGINES["graph"](device, [(4, 16)], output_width=WIDTH).scorer
    one, two = Follower(device), Follower(device)
    first, second = prepare(outer, one.target.address), prepare(inner, two.target.address)
    found: list[_core.Ticket | None] = []

    def innermost() -> None:
        found.append(_core.follow_launched(one.target.address, one.stream.handle))
        found.append(two.follow())

    def meanwhile() -> None:
        inner.run(second, 30, innermost)
        found.append(one.follow())

    assert outer.run(first, 30, meanwhile)
    assert found == [None, second, first]
    for it in (one, two):
        it.stream.synchronize()
        np.testing.assert_array_equal(it.seen[0], expected_texts(TEXTS, WIDTH))
    outer.close()
    inner.close()


def test_a_host_engine_has_no_device_to_follow() -> None:
    scorer = ENGINES["host"](None, [(4, 16)], output_width=WIDTH).scorer
    ticket = prepare(scorer, 64)
    assert following(scorer, ticket, 64, 1) is None
    assert ticket.status == "failed"
    assert not ticket.holds(np.zeros(3 * WIDTH, np.float32))
    scorer.close()


def test_a_driver_that_fails_says_so(device: _core.Device, fake: FakeDriver) -> None:
    scorer = ENGINES["graph"](device, [(4, 16)], output_width=WIDTH).scorer
    it = Follower(device)
    fake.fail_call("cuStreamWaitEvent")
    ticket = prepare(scorer, it.target.address)
    with pytest.raises(_core.CudaError, match="cuStreamWaitEvent"):
        following(scorer, ticket, it.target.address, it.stream.handle)
    assert ticket.wait(30)
    assert ticket.status == "done"
    scorer.close()


def test_a_ticket_knows_its_scores(build_engine: Callable[..., Built]) -> None:
    scorer = build_engine([(4, 16)], output_width=WIDTH).scorer
    ticket = scorer.prepare_texts(TEXTS, cls_id=101, sep_id=102)
    expected = expected_texts(TEXTS, WIDTH).ravel()
    assert not ticket.holds(expected)  # pending
    assert scorer.run(ticket, 30)
    assert ticket.holds(expected)
    assert not ticket.holds(expected[:-1])
    assert not ticket.holds(np.nextafter(expected, np.float32(np.inf), dtype=np.float32))
    with pytest.raises(TypeError, match="float64"):
        ticket.holds(expected.astype(np.float64))


def test_a_readback_follows_its_stream(device: _core.Device, fake: FakeDriver) -> None:
    it = Follower(device)
    memory = _core.Readback(device, 40)
    assert memory.nbytes == 40
    assert memory.done()

    def write() -> None:
        data = (ctypes.c_char * 40).from_address(memory.address)
        np.frombuffer(memoryview(data), np.float32)[:] = np.arange(10)

    fake.hold()
    it.functions.put(it.stream.handle, write)
    memory.fetch(it.stream.handle, 40)
    assert not memory.done()
    assert not memory.wait(0.0)
    assert not memory.wait(0.01)
    out = np.empty(6, np.float32)
    with pytest.raises(RuntimeError, match="on its way"):
        memory.copy(out)
    fake.hold(False)
    assert memory.wait(30)
    memory.copy(out, offset=16)
    np.testing.assert_array_equal(out, np.arange(4, 10))
    with pytest.raises(IndexError, match="outside of a buffer of 40"):
        memory.copy(out, offset=17)
    with pytest.raises(IndexError, match="41 bytes"):
        memory.fetch(it.stream.handle, 41)
    with pytest.raises(ValueError, match="C-contiguous"):
        memory.copy(out[::2])
    with pytest.raises(ValueError, match="NaN"):
        memory.wait(float("nan"))
    # Of nothing: the mark of the stream's end alone.
    fake.hold()
    it.functions.put(it.stream.handle, write)
    memory.fetch(it.stream.handle, 0)
    assert not memory.done()
    fake.hold(False)
    assert memory.wait(30)


def test_a_readback_is_freed_once_the_device_is_done_with_it(device: _core.Device, fake: FakeDriver) -> None:
    stream = _core.Stream(device)
    memory = _core.Readback(device, 64)
    fake.hold()
    memory.fetch(stream.handle, 64)
    threading.Timer(0.02, fake.hold, (False,)).start()
    del memory
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)
    stream.synchronize()


def test_a_device_that_fails_before_the_copy(device: _core.Device, fake: FakeDriver) -> None:
    stream = _core.Stream(device)
    memory = _core.Readback(device, 64)
    fake.fail_work("cuMemcpyDtoHAsync")
    memory.fetch(stream.handle, 64)
    with pytest.raises(_core.CudaError, match="cuEventQuery"):
        memory.wait(30)
