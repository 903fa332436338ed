"""Load: every arrival ends in one outcome, and latency counts from the intended start."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.replay.entry import Entry
from searchpipe.replay.load import Load, LoadSettings, attempt
from searchpipe.replay.outcome import Outcome
from searchpipe.replay.schedule import Arrival, Fixed, Recorded
from searchpipe.replay.targets import ShedError, TargetError, TargetTimeoutError
from searchpipe.replay.waiting import WaitingRoom
from tests.fakes.replay_targets import FakeTarget, JumpClock, entries_of, page_of


class Seen:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._lock = threading.Lock()

    def __call__(self, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes.append(outcome)

    @property
    def kinds(self) -> Counter[str]:
        return Counter(outcome.kind for outcome in self.outcomes)


def raising(error: BaseException):  # type: ignore[no-untyped-def]
    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        raise error

    return answer


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2))), st.integers(1, 5), st.floats(0.1, 5))
def test_the_room_is_bounded_and_loses_nobody(
    moves: list[tuple[bool, float]], places: int, patience: float
) -> None:
    room, now, came = WaitingRoom(places, patience), 0.0, 0
    started: list[int] = []
    dropped: list[int] = []
    for comes, passed in moves:
        now += passed
        if comes:
            left = room.add(Arrival(now, Entry(float(came), "x")))
            came += 1
            assert len(room) <= places
        else:
            taken, left = room.take(now)
            assert all(now - arrival.at > patience for arrival in left)
            if taken is not None:
                assert now - taken.at <= patience
                started.append(int(taken.entry.ts))
        dropped += [int(arrival.entry.ts) for arrival in left]
    rest = [int(arrival.entry.ts) for arrival in room.clear()]
    assert sorted(started + dropped + rest) == list(range(came))
    # First come, first served; and whoever was dropped had come before all who are left.
    assert started == sorted(started)
    assert dropped == sorted(dropped)
    assert not dropped or not rest or dropped[-1] < rest[0]


def test_a_late_start_is_part_of_the_latency() -> None:
    clock = JumpClock()
    start = clock.now()

    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        clock.advance(0.25)
        return page_of(["a"])

    clock.advance(3.0)  # the caller comes to it 2 s after it was meant to start
    outcome = attempt(FakeTarget(answer), Arrival(1.0, Entry(0.0, "x")), lambda: clock.now() - start)
    assert (outcome.kind, outcome.started, outcome.done) == ("answered", 3.0, 3.25)
    assert outcome.latency_ms == pytest.approx(2250.0)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ShedError("429"), "shed", "429"),
        (TargetError("500"), "error", "500"),
        (TargetTimeoutError("timeout"), "timeout", "timeout"),
        (ZeroDivisionError("x"), "error", "ZeroDivisionError"),
    ],
)
def test_what_a_target_raises_is_an_outcome(error: Exception, kind: str, code: str) -> None:
    outcome = attempt(FakeTarget(raising(error)), Arrival(0.0, Entry(0.0, "x")), lambda: 1.0)
    assert (outcome.kind, outcome.code, outcome.answer) == (kind, code, None)


def test_open_loop_gives_every_arrival_one_outcome() -> None:
    entries = entries_of(300)
    target, seen = FakeTarget(), Seen()
    load = Load(target, seen, LoadSettings(max_in_flight=4, patience_s=3600), JumpClock())
    load.run_open(Recorded().arrivals(entries))
    assert seen.kinds == {"answered": 300}
    assert Counter(o.entry.ts for o in seen.outcomes) == Counter(e.ts for e in entries)
    for outcome in seen.outcomes:
        assert outcome.at == pytest.approx(outcome.entry.ts - 1000.0, abs=1e-6)
        assert outcome.at <= outcome.started <= outcome.done
    assert not load.interrupted
    assert load.not_started == 0
    assert load.in_flight == 0


def test_a_target_that_stands_still_costs_all_who_wait_and_nobody_is_forgiven() -> None:
    # The first query holds the only caller until all others have arrived.
    clock, gate = JumpClock(), threading.Event()
    last = 49

    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        if entry.ts == 1000.0:
            assert gate.wait(20)
        return page_of(["a"])

    class Watched(Recorded):
        def arrivals(self, entries):  # type: ignore[no-untyped-def]
            yield from super().arrivals(entries)
            gate.set()

    seen = Seen()
    settings = LoadSettings(max_in_flight=1, patience_s=3600)
    Load(FakeTarget(answer), seen, settings, clock).run_open(Watched().arrivals(entries_of(last + 1)))
    assert seen.kinds == {"answered": last + 1}
    by_start = sorted(seen.outcomes, key=lambda outcome: outcome.at)
    # All were answered when the last one arrived, at 4.9 s: the one of 0.1 s waited 4.8 s.
    for outcome in by_start:
        assert outcome.latency_ms >= (4.9 - outcome.at) * 1e3 - 1


def test_what_finds_no_place_or_patience_is_dropped_with_its_wait() -> None:
    clock, gate = JumpClock(), threading.Event()

    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        assert gate.wait(20)
        return page_of(["a"])

    class Watched(Recorded):
        def arrivals(self, entries):  # type: ignore[no-untyped-def]
            yield from super().arrivals(entries)
            gate.set()

    seen = Seen()
    settings = LoadSettings(max_in_flight=2, max_waiting=5, patience_s=4.0)
    Load(FakeTarget(answer), seen, settings, clock).run_open(Watched().arrivals(entries_of(40)))
    assert sum(seen.kinds.values()) == 40
    assert seen.kinds["dropped"] >= 40 - 2 - 5 - 1
    for outcome in seen.outcomes:
        if outcome.kind == "dropped":
            assert outcome.latency_ms >= 4000 - 1e-6
            assert outcome.code == "not_started"


def test_ctrl_c_ends_it_with_what_was_seen() -> None:
    class Interrupting(JumpClock):
        waits = 0

        def wait(self, stop: threading.Event, seconds: float) -> bool:
            self.waits += 1
            if self.waits == 20:
                raise KeyboardInterrupt
            return super().wait(stop, seconds)

    target, seen = FakeTarget(), Seen()
    load = Load(target, seen, LoadSettings(max_in_flight=2, patience_s=3600), Interrupting())
    load.run_open(Recorded().arrivals(entries_of(1000)))
    assert load.interrupted
    assert len(seen.outcomes) == len(target.asked)
    assert 1 <= len(seen.outcomes) + load.not_started <= 21


def test_a_target_that_never_answers_does_not_hang_the_replay() -> None:
    gate, clock = threading.Event(), JumpClock()

    class Impatient(Seen):
        def __call__(self, outcome: Outcome) -> None:
            super().__call__(outcome)
            if len(self.outcomes) == 19:
                clock.tick = 1000.0  # from now on, every look at the clock is far later

    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        if entry.ts == 1000.5:
            gate.wait(60)
        return page_of(["a"])

    seen = Impatient()
    try:
        load = Load(FakeTarget(answer), seen, LoadSettings(max_in_flight=3, patience_s=3600), clock)
        load.run_open(Recorded().arrivals(entries_of(20)))
        assert seen.kinds == {"answered": 19, "timeout": 1}
        assert [o.code for o in seen.outcomes if o.entry.ts == 1000.5] == ["unfinished"]
        assert load.in_flight == 0
    finally:
        gate.set()


def test_a_log_that_breaks_on_the_way_is_told() -> None:
    def entries():  # type: ignore[no-untyped-def]
        yield from entries_of(5)
        raise RuntimeError("disk")

    seen = Seen()
    with pytest.raises(RuntimeError, match="disk"):
        Load(FakeTarget(), seen, clock=JumpClock()).run_open(Fixed(10).arrivals(entries()))
    with pytest.raises(RuntimeError, match="disk"):
        Load(FakeTarget(), seen, clock=JumpClock()).run_closed(entries(), callers=3)


def test_an_observer_that_fails_ends_the_run() -> None:
    def observe(outcome: Outcome) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        Load(FakeTarget(), observe, clock=JumpClock()).run_open(Recorded().arrivals(entries_of(500)))


def test_closed_loop_asks_each_entry_once_and_never_more_at_a_time_than_callers() -> None:
    lock, running, most = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(20)  # all three callers are inside at once
        with lock:
            running -= 1
        return page_of(["a"])

    seen = Seen()
    Load(FakeTarget(answer), seen, clock=JumpClock(tick=0.001)).run_closed(entries_of(30), callers=3)
    assert seen.kinds == {"answered": 30}
    assert len({outcome.entry.ts for outcome in seen.outcomes}) == 30
    assert most == 3
    assert all(outcome.started >= outcome.at for outcome in seen.outcomes)


def test_closed_loop_ends_with_its_duration() -> None:
    seen = Seen()
    clock = JumpClock(tick=0.01)
    Load(FakeTarget(), seen, clock=clock).run_closed(entries_of(10_000), callers=2, duration_s=5.0)
    assert 0 < len(seen.outcomes) < 1000


def test_stop_from_another_thread() -> None:
    seen = Seen()
    load: Load

    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        if entry.ts == 1001.0:
            load.stop()
        return page_of(["a"])

    load = Load(FakeTarget(answer), seen, LoadSettings(max_in_flight=1), JumpClock())
    load.run_closed(entries_of(100), callers=1)
    assert len(seen.outcomes) == 11
