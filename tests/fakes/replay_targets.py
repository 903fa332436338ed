"""Targets, clocks and answers for the tests of replay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from searchpipe.replay.entry import Entry
from searchpipe.replay.outcome import Answer, Item


class JumpClock:
    """Waiting takes no time: the clock jumps. ``tick`` passes with every look at it."""

    def __init__(self, tick: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._t = 100.0
        self.tick = tick

    def now(self) -> float:
        with self._lock:
            self._t += self.tick
            return self._t

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.advance(seconds + 1e-6)  # a wait of less than a rounding error would never end
        return stop.is_set()

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._t += seconds


class FakeTarget:
    """Answers by a function of the entry; keeps what it was asked."""

    def __init__(self, answer: Callable[[Entry], Answer] | None = None) -> None:
        self._answer = answer or (lambda entry: page_of(["a", "b"]))
        self._lock = threading.Lock()
        self.asked: list[Entry] = []
        self.closed = False

    def search(self, entry: Entry) -> Answer:
        with self._lock:
            self.asked.append(entry)
        return self._answer(entry)

    def describe(self) -> str:
        return "a fake"

    def close(self) -> None:
        self.closed = True


def page_of(
    ids: Iterable[str],
    *,
    total_ms: float = 5.0,
    budget_ms: float = 50.0,
    degradations: tuple[tuple[str, str, float], ...] = (),
    spans: tuple[tuple[str, float, float], ...] = (("recall", 0.0, 3.0), ("page", 3.0, 1.0)),
) -> Answer:
    items = tuple(Item(id, 1.0 / (place + 1), f"Product {id}") for place, id in enumerate(ids))
    return Answer(items, total_ms, budget_ms, degradations, spans, "v1")


def entries_of(count: int, *, gap_s: float = 0.1, start: float = 1000.0) -> list[Entry]:
    return [Entry(start + number * gap_s, f"query {number % 7}") for number in range(count)]
