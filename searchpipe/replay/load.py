"""Puts load on a target: open loop at given times, or closed loop with a number of callers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec

from searchpipe.replay.clock import Clock, RealClock
from searchpipe.replay.entry import Entry
from searchpipe.replay.outcome import Outcome
from searchpipe.replay.schedule import Arrival
from searchpipe.replay.targets import ShedError, Target, TargetError, TargetTimeoutError
from searchpipe.replay.waiting import WaitingRoom
from searchpipe.settings import Settings

Observe = Callable[[Outcome], None]
"""Told each outcome, from many threads."""

_POLL_S = 0.2


class LoadSettings(Settings, frozen=True):
    """Bounds of the load.

    Attributes:
        max_in_flight: queries at the target at once; as many threads.
        max_waiting: queries that wait for one of them.
        patience_s: seconds after its intended start that a query may wait before it is dropped;
            also how long the end of the replay waits for answers.
    """

    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    max_waiting: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    patience_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 10.0


class Load:
    """One run of load. ``run_open`` or ``run_closed`` is called once; ``stop`` from any thread.

    Args:
        target: asked from ``max_in_flight`` threads.
        observe: told each outcome.
        settings: bounds.
        clock: time.
    """

    def __init__(
        self,
        target: Target,
        observe: Observe,
        settings: LoadSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._target = target
        self._observe = observe
        self._settings = settings or LoadSettings()
        self._clock = clock or RealClock()
        self._start = self._clock.now()
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._room = WaitingRoom(self._settings.max_waiting, self._settings.patience_s)
        self._arrived_all = False
        self._in_flight: dict[int, tuple[Arrival, float]] = {}
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self.interrupted = False
        self.not_started = 0
        """Queries that had arrived and were not started when the replay was stopped."""

    def stop(self) -> None:
        """Start nothing more; what runs is waited for."""
        self._stop.set()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock.now() - self._start

    @property
    def in_flight(self) -> int:
        """Queries at the target now."""
        return len(self._in_flight)

    def run_open(self, arrivals: Iterable[Arrival]) -> None:
        """Start each query at its time, whatever the others do.

        Ctrl-C ends it: what runs is waited for, ``interrupted`` is set.
        """
        self._start = self._clock.now()
        try:
            self._dispatch(arrivals)
        except KeyboardInterrupt:
            self._interrupt()
        finally:
            self._arrived_all = True
            if self._stop.is_set():
                self._empty_room()
            with self._changed:
                self._changed.notify_all()
            self._finish()

    def run_closed(self, entries: Iterable[Entry], callers: int, duration_s: float = float("inf")) -> None:
        """Let ``callers`` ask one query after the other; the intended start is when a caller is free."""
        self._start = self._clock.now()
        source = iter(entries)
        lock = threading.Lock()

        def next_entry() -> Entry | None:
            with lock:
                if self._stop.is_set() or self.elapsed() >= duration_s:
                    return None
                return next(source, None)

        def call(number: int) -> None:
            while (entry := next_entry()) is not None:
                self._attempt(number, Arrival(self.elapsed(), entry))

        for number in range(callers):
            self._spawn(number, call)
        self._arrived_all = True
        self._finish(endless=True)

    def _dispatch(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            while (early := arrival.at - self.elapsed()) > 0:
                if self._clock.wait(self._stop, min(early, _POLL_S)):
                    break
            if self._stop.is_set():
                self.not_started += 1
                return
            with self._changed:
                if self._failure is not None:
                    return
                dropped = self._room.add(arrival)
                idle = len(self._threads) - len(self._in_flight)
                if idle < len(self._room) and len(self._threads) < self._settings.max_in_flight:
                    self._spawn(len(self._threads), self._work)
                self._changed.notify()
            self._drop(dropped)

    def _spawn(self, number: int, work: Callable[[int], None]) -> None:
        def guarded() -> None:
            try:
                work(number)
            except BaseException as error:
                # A broken observer or log reader ends the run instead of a silent hole in the figures.
                self._failure = self._failure or error
                self._stop.set()

        # Daemons: a target that never answers must not keep the process alive.
        thread = threading.Thread(target=guarded, name=f"replay-{number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, number: int) -> None:
        while True:
            with self._changed:
                while not len(self._room):
                    if self._arrived_all:
                        return
                    self._changed.wait()
                arrival, dropped = self._room.take(self.elapsed())
            self._drop(dropped)
            if arrival is not None:
                self._attempt(number, arrival)

    def _attempt(self, number: int, arrival: Arrival) -> None:
        self._in_flight[number] = arrival, self.elapsed()
        outcome = attempt(self._target, arrival, self.elapsed)
        # Whoever takes it out tells of it: the end of the replay may have given it up meanwhile.
        if self._in_flight.pop(number, None) is not None:
            self._observe(outcome)

    def _drop(self, dropped: Iterable[Arrival]) -> None:
        now = self.elapsed()
        for arrival in dropped:
            # Its caller went home after the patience and saw no page: never faster than that.
            done = max(now, arrival.at + self._settings.patience_s)
            self._observe(Outcome(arrival.entry, "dropped", arrival.at, now, done, code="not_started"))

    def _interrupt(self) -> None:
        self.interrupted = True
        self._stop.set()

    def _empty_room(self) -> None:
        with self._changed:
            self.not_started += len(self._room.clear())
            self._changed.notify_all()

    def _finish(self, *, endless: bool = False) -> None:
        """Wait for the threads; once nothing new is started, no longer than the patience."""
        limit: float | None = None
        while alive := [thread for thread in self._threads if thread.is_alive()]:
            try:
                alive[0].join(_POLL_S)
                if self._stop.is_set():
                    self._empty_room()
                stopping = self._stop.is_set() or not (endless or len(self._room))
                if stopping and limit is None:
                    limit = self._clock.now() + self._settings.patience_s
                if limit is not None and self._clock.now() > limit:
                    break
            except KeyboardInterrupt:
                if self.interrupted:
                    break  # asked twice
                self._interrupt()
        for number in list(self._in_flight):
            left = self._in_flight.pop(number, None)
            if left is not None:
                arrival, started = left
                done = max(self.elapsed(), started)
                self._observe(Outcome(arrival.entry, "timeout", arrival.at, started, done, code="unfinished"))
        if self._failure is not None:
            raise self._failure


def attempt(target: Target, arrival: Arrival, elapsed: Callable[[], float]) -> Outcome:
    """Ask the target once; latency counts from ``arrival.at``, however late it is by now."""
    started = elapsed()
    entry, at = arrival.entry, arrival.at
    try:
        answer = target.search(entry)
    except ShedError as error:
        return Outcome(entry, "shed", at, started, elapsed(), code=error.code)
    except TargetTimeoutError as error:
        return Outcome(entry, "timeout", at, started, elapsed(), code=error.code)
    except TargetError as error:
        return Outcome(entry, "error", at, started, elapsed(), code=error.code)
    except Exception as error:  # a target of the user's own may raise anything
        return Outcome(entry, "error", at, started, elapsed(), code=type(error).__name__)
    return Outcome(entry, "answered", at, started, elapsed(), answer)
