"""The batch planner's policy in plain Python: sort everything, then take what fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from searchpipe._core import BatchPlanner

# Times are multiples of 1/256 s and costs are powers of two: sums are exact and answers can be compared.
TICKS = st.integers(0, 128).map(lambda ticks: ticks / 256)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=20).map(
    lambda values: sorted(values, reverse=True)
)
PATIENCE = st.one_of(st.just(math.inf), st.integers(1, 768).map(lambda ticks: ticks / 256))


@dataclass
class Waiting:
    id: int
    lengths: list[int]
    arrival: float
    deadline: float
    priority: int
    sequence: int
    next_row: int = 0

    @property
    def left(self) -> int:
        return len(self.lengths) - self.next_row


@dataclass
class Limits:
    max_rows: int = 8
    token_budget: int = 64
    width_step: int = 1
    max_delay_s: float = 0.25
    starve_after_s: float = 4.0
    max_queued_rows: int = 40
    max_queued_requests: int = 6
    base_s: float = 0.125
    token_s: float = 1 / 256
    packed: bool = False


def lengths_of(*values: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(values, np.int32)


def planner_of(limits: Limits) -> BatchPlanner:
    return BatchPlanner(**vars(limits))


@dataclass
class ReferencePlanner:
    """The same answers as ``BatchPlanner``; batches as ``(parts, width, tokens)``."""

    limits: Limits
    queue: list[Waiting] = field(default_factory=list)
    arrivals: int = 0

    def add(self, request: int, lengths: list[int], now: float, deadline: float, priority: int) -> str:
        limits = self.limits
        if deadline <= now:
            return "deadline_passed"
        if self.width(lengths[0]) > limits.token_budget:
            return "row_too_wide"
        if len(self.queue) >= limits.max_queued_requests:
            return "queued_requests"
        if len(lengths) + sum(one.left for one in self.queue) > limits.max_queued_rows:
            return "queued_rows"
        self.queue.append(Waiting(request, lengths, now, deadline, priority, self.arrivals))
        self.arrivals += 1
        return ""

    def cancel(self, request: int) -> bool:
        found = [one for one in self.queue if one.id == request]
        for one in found:
            self.queue.remove(one)
        return bool(found)

    def expire(self, now: float) -> list[int]:
        gone = [one.id for one in self.queue if one.deadline <= now]
        self.queue = [one for one in self.queue if one.deadline > now]
        return gone

    def width(self, length: int) -> int:
        step = self.limits.width_step
        return math.ceil(length / step) * step

    def fit(self, one: Waiting) -> int:
        """Most rows of this request that one batch holds."""
        return self.room(one, 0, 0, 0)

    def room(self, one: Waiting, rows: int, width: int, places: int) -> int:
        """Rows of this request that a batch of so many rows, so wide, holds besides."""
        limits = self.limits
        if not limits.packed:
            wide = max(width, self.width(one.lengths[one.next_row]))
            return min(limits.max_rows, limits.token_budget // wide) - rows
        counts = range(min(one.left, limits.max_rows - rows) + 1)
        return max(count for count in counts if places + self.places(one, count) <= limits.token_budget)

    def places(self, one: Waiting, rows: int) -> int:
        """What so many rows of this request take up by themselves."""
        if self.limits.packed:
            return sum(one.lengths[one.next_row : one.next_row + rows])
        return rows * self.width(one.lengths[one.next_row])

    def seconds(self, places: int) -> float:
        return self.limits.base_s + self.limits.token_s * places

    def joined(self, one: Waiting, rows: int, wide: int, places: int, count: int) -> int:
        """Places of a batch once so many rows of this request have joined it."""
        return places + self.places(one, count) if self.limits.packed else (rows + count) * wide

    def order(self, now: float) -> list[Waiting]:
        def key(one: Waiting) -> tuple[float, ...]:
            if now - one.arrival >= self.limits.starve_after_s:
                return (0, one.sequence)
            return (1, -one.priority, one.deadline, one.sequence)

        return sorted((one for one in self.queue if one.deadline > now), key=key)

    def next_batch(
        self, now: float, flush: bool = False
    ) -> tuple[list[tuple[int, int, int]], int, int] | float:
        limits, seconds = self.limits, self.seconds
        taken: list[tuple[Waiting, int]] = []
        apart: list[Waiting] = []
        rows = width = places = 0
        must_keep = math.inf
        full = cut_short = False
        for one in self.order(now):
            wide = max(width, self.width(one.lengths[one.next_row]))
            room = self.room(one, rows, width, places)
            count = min(max(room, 1), one.left)
            joined = self.joined(one, rows, wide, places, count)
            if taken:
                if seconds(joined) > seconds(places) + seconds(self.places(one, count)):
                    apart.append(one)
                    continue
                if room < 1:
                    full = True
                    break
                while count and now + seconds(joined) > must_keep:
                    count //= 2
                    joined = self.joined(one, rows, wide, places, count)
                    cut_short = True
                if not count:
                    continue
            taken.append((one, count))
            rows, width, places = rows + count, wide, joined
            if now + seconds(places) <= one.deadline:
                must_keep = min(must_keep, one.deadline)
            one_more = places + (1 if limits.packed else width)
            if room < one.left or rows == limits.max_rows or one_more > limits.token_budget:
                full = True
                break
        if not taken:
            return math.inf
        busy = seconds(places)
        due = min(min(one.arrival + limits.max_delay_s, one.deadline - busy) for one, _ in taken)
        for one in apart:
            busy += seconds(self.places(one, min(one.left, self.fit(one))))
            due = min(due, one.arrival + limits.max_delay_s, one.deadline - busy)
        if not (flush or full or cut_short) and due > now:
            return due
        parts, tokens = [], 0
        for one, count in taken:
            parts.append((one.id, one.next_row, count))
            tokens += sum(one.lengths[one.next_row : one.next_row + count])
            one.next_row += count
        self.queue = [one for one in self.queue if one.left]
        return parts, width, tokens
