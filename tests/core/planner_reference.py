"""The batch planner's policy in plain Python: sort everything, then take what fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


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
        return min(self.limits.max_rows, self.limits.token_budget // self.width(one.lengths[one.next_row]))

    def seconds(self, padded_tokens: int) -> float:
        return self.limits.base_s + self.limits.token_s * padded_tokens

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
        rows = width = 0
        must_keep = math.inf
        full = cut_short = False
        for one in self.order(now):
            own = self.width(one.lengths[one.next_row])
            wide = max(width, own)
            room = min(limits.max_rows, limits.token_budget // wide) - rows
            count = min(max(room, 1), one.left)
            if taken:
                if seconds((rows + count) * wide) > seconds(rows * width) + seconds(count * own):
                    apart.append(one)
                    continue
                if room < 1:
                    full = True
                    break
                while count and now + seconds((rows + count) * wide) > must_keep:
                    count //= 2
                    cut_short = True
                if not count:
                    continue
            taken.append((one, count))
            rows, width = rows + count, wide
            if now + seconds(rows * width) <= one.deadline:
                must_keep = min(must_keep, one.deadline)
            if room < one.left or rows == limits.max_rows or (rows + 1) * width > limits.token_budget:
                full = True
                break
        if not taken:
            return math.inf
        busy = seconds(rows * width)
        due = min(min(one.arrival + limits.max_delay_s, one.deadline - busy) for one, _ in taken)
        for one in apart:
            busy += seconds(min(one.left, self.fit(one)) * self.width(one.lengths[one.next_row]))
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
