"""Threads behind a bounded queue: order, bounds, leaving, closing."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.admission import Admission
from searchpipe.allotment import Allotment, Service
from searchpipe.errors import ClosedError, OverloadedError
from searchpipe.waiting_room import WaitingRoom


class Occupied:
    """A room with one thread, which is busy until the block ends."""

    def __init__(self, max_waiting: int) -> None:
        self.room: WaitingRoom[str] = WaitingRoom(1, max_waiting)
        self.go, self.begun = threading.Event(), threading.Event()
        self.ran: list[str] = []

    def __enter__(self) -> Occupied:
        def occupy() -> str:
            self.begun.set()
            self.go.wait(30)
            return "first"

        self.first = self.room.submit(occupy, priority=0, due=0.0)
        assert self.begun.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self.room.close()

    def job(self, name: str) -> Callable[[], str]:
        def run() -> str:
            self.ran.append(name)
            return name

        return run


def test_priority_then_deadline_then_arrival() -> None:
    with Occupied(10) as busy:
        jobs = [("late", 0, 9.0), ("soon", 0, 1.0), ("soon too", 0, 1.0), ("low", -1, 0.0), ("high", 3, 50.0)]
        futures = [busy.room.submit(busy.job(n), priority=p, due=due) for n, p, due in jobs]
        assert len(busy.room) == 5
        busy.go.set()
        assert [future.result(30) for future in futures] == [name for name, *_ in jobs]
    assert busy.ran == ["high", "soon", "soon too", "late", "low"]


def test_the_least_urgent_gives_its_place_up() -> None:
    with Occupied(2) as busy:
        low = busy.room.submit(busy.job("low"), priority=-1, due=1.0)
        middle = busy.room.submit(busy.job("middle"), priority=0, due=1.0)
        high = busy.room.submit(busy.job("high"), priority=1, due=1.0)
        with pytest.raises(OverloadedError, match="limit"):
            low.result(0)
        with pytest.raises(OverloadedError):
            # Not more urgent than any that waits, however soon it is due.
            busy.room.submit(busy.job("too many"), priority=0, due=0.0)
        busy.go.set()
        assert (middle.result(30), high.result(30)) == ("middle", "high")
    assert busy.ran == ["high", "middle"]


def test_who_leaves_frees_a_place() -> None:
    with Occupied(1) as busy:
        leaving = busy.room.submit(busy.job("leaving"), priority=0, due=1.0)
        busy.room.leave(leaving)
        assert len(busy.room) == 0
        staying = busy.room.submit(busy.job("staying"), priority=0, due=1.0)
        busy.go.set()
        assert staying.result(30) == "staying"
        busy.room.leave(staying)  # too late to leave
    assert busy.ran == ["staying"]


def test_the_room_presses_when_somebody_has_waited_for_a_tenth_of_their_time() -> None:
    now = 0.0
    policy = Admission(1, clock=lambda: now)
    policy.ended(Allotment(Service.FULL, math.inf, -1.0, 0.0))  # a full answer takes a second
    room: WaitingRoom[str] = WaitingRoom(1, 4, clock=lambda: now, admission=policy)
    go, begun = threading.Event(), threading.Event()

    def occupy() -> str:
        begun.set()
        go.wait(30)
        return "first"

    first = room.submit(occupy, priority=0, due=1.0)
    assert begun.wait(30)
    assert not room.pressed()
    second = room.submit(lambda: "second", priority=0, due=1.0)
    now = 0.09
    assert not room.pressed()
    now = 0.11
    assert room.pressed()
    go.set()
    assert (first.result(30), second.result(30)) == ("first", "second")
    assert not room.pressed()
    room.close()


def test_a_job_that_fails_fails_alone() -> None:
    def fail() -> str:
        raise ZeroDivisionError

    room: WaitingRoom[str] = WaitingRoom(1, 4)
    with pytest.raises(ZeroDivisionError):
        room.submit(fail, priority=0, due=0.0).result(30)
    assert room.submit(lambda: "fine", priority=0, due=0.0).result(30) == "fine"
    room.close()


def test_closing_cancels_those_that_wait() -> None:
    with Occupied(4) as busy:
        waiting = busy.room.submit(busy.job("waiting"), priority=0, due=1.0)
        closing = threading.Thread(target=busy.room.close)
        closing.start()
        with pytest.raises(CancelledError):
            waiting.result(30)
        busy.go.set()
        closing.join(30)
        assert busy.first.result(0) == "first"
    with pytest.raises(ClosedError):
        busy.room.submit(busy.job("late"), priority=0, due=0.0)


def test_a_thread_that_is_never_idle_ends_with_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searchpipe.waiting_room._TURN_S", 0.001)
    room: WaitingRoom[int] = WaitingRoom(1, 100)
    errors: list[BaseException] = []

    def ask() -> None:
        futures = [room.submit(lambda: 1, priority=0, due=1.0) for _ in range(3)]
        while True:
            try:
                assert futures.pop(0).result(30) == 1
                futures.append(room.submit(lambda: 1, priority=0, due=1.0))
            except ClosedError as error:
                errors.append(error)
                return

    askers = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for asker in askers:
        asker.start()
    # What the interpreter's end does, long before it closes the room.
    ended = threading.Thread(target=room._threads.shutdown, daemon=True)
    ended.start()
    for thread in (ended, *askers):
        thread.join(30)
        assert not thread.is_alive()
    assert len(errors) == 3
    assert len(room) == 0


def test_a_room_outlives_a_moment_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        tried.set()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("searchpipe.waiting_room._TURN_S", 0.001)
    go, tried = threading.Event(), threading.Event()
    room: WaitingRoom[bool] = WaitingRoom(1, 4)
    room._threads = ThreadPoolExecutor(2)  # would begin another thread for another turn
    first = room.submit(lambda: go.wait(30), priority=0, due=0.0)
    second = room.submit(tried.is_set, priority=0, due=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        go.wait(0.01)
        go.set()
        assert first.result(30)
        assert second.result(30)  # on a turn of its own
    assert room.submit(lambda: True, priority=0, due=0.0).result(30)
    room.close()


def test_a_pool_that_begins_nothing_any_more_refuses_as_a_closed_room() -> None:
    room: WaitingRoom[str] = WaitingRoom(1, 4)
    room._threads.shutdown()  # as `close` of another thread does, or the end of the interpreter
    for _ in range(2):
        with pytest.raises(ClosedError):
            room.submit(lambda: "late", priority=0, due=0.0)
        assert (len(room), room._active) == (0, 0)
    room.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 3), st.booleans()), max_size=12),
    st.integers(1, 5),
)
def test_it_runs_what_a_model_says(jobs: list[tuple[int, int, bool]], places: int) -> None:
    """Each job: priority, when it is due, whether its caller leaves at once."""
    model: list[tuple[int, int, int]] = []
    with Occupied(places) as busy:
        futures: dict[int, Future[str]] = {}
        for number, (priority, due, leaves) in enumerate(jobs):
            entry = (-priority, due, number)
            try:
                futures[number] = busy.room.submit(busy.job(str(number)), priority=priority, due=float(due))
            except OverloadedError:
                assert len(model) == places
                assert max(model)[0] <= entry[0]
                continue
            if len(model) == places:
                model.remove(max(model))
            model.append(entry)
            if leaves:
                busy.room.leave(futures[number])
                model.remove(entry)
            assert len(busy.room) == len(model) <= places
        busy.go.set()
        for *_, number in model:
            assert futures[number].result(30) == str(number)
    assert busy.ran == [str(number) for *_, number in sorted(model)]
