"""Counts and histograms of one group of queries, and of one interval of time."""

from __future__ import annotations

import math

import numpy as np

from searchpipe._core import Histogram
from searchpipe.replay.figures import CurvePoint, Group, Interval, QualityFigures, Quantiles
from searchpipe.replay.outcome import KINDS, Outcome
from searchpipe.replay.quality import Quality

_POINTS = np.array([0.5, 0.9, 0.95, 0.99, 0.999])
CURVE = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
# What waited for an answer; refusals and errors come at once and would flatter the latency.
_WAITED = ("answered", "timeout", "dropped")


class Mean:
    """A running mean; NaN values are left out."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        """One more."""
        if not math.isnan(value):
            self.count += 1
            self.total += value

    @property
    def value(self) -> float | None:
        """The mean; None without values."""
        return self.total / self.count if self.count else None


class Tally:
    """Figures of a group of queries. Not for several threads at once."""

    def __init__(self) -> None:
        self.kinds = dict.fromkeys(KINDS, 0)
        self.latency = Histogram()
        self.service = Histogram()
        self.good = 0
        self.degraded = 0
        self.cached = 0
        self.ndcg, self.recall, self.rr = Mean(), Mean(), Mean()

    def add(self, outcome: Outcome, quality: Quality, good: bool) -> None:
        """One more outcome; ``good``: it was answered within its budget."""
        self.kinds[outcome.kind] += 1
        if outcome.kind in _WAITED:
            self.latency.record(outcome.latency_ms)
        if outcome.answer is None:
            return
        self.service.record(max(0.0, outcome.answer.total_ms))
        self.good += good
        self.degraded += bool(outcome.answer.degradations)
        self.cached += outcome.answer.cached
        self.ndcg.add(quality.ndcg)
        self.recall.add(quality.recall)
        self.rr.add(quality.rr)

    def figures(self, seconds: float) -> Group:
        """For the report; ``seconds`` is how long it took."""
        answered = self.kinds["answered"]
        return Group(
            sum(self.kinds.values()),
            answered,
            self.kinds["shed"],
            self.kinds["error"],
            self.kinds["timeout"],
            self.kinds["dropped"],
            quantiles_of(self.latency),
            quantiles_of(self.service),
            _rate(answered, seconds),
            self.good,
            _rate(self.good, seconds),
            self.degraded,
            self.degraded / answered if answered else None,
            self.cached,
            QualityFigures(self.ndcg.count, self.ndcg.value, self.recall.value, self.rr.count, self.rr.value),
        )


class Timeline:
    """Figures by intended start, in at most ``limit`` intervals: they double when there are more.

    Not for several threads at once.

    Args:
        width_s: of the first intervals, in seconds.
        limit: even.
    """

    def __init__(self, width_s: float = 0.5, limit: int = 120) -> None:
        self.width_s = width_s
        self._limit = limit
        self._cells: dict[int, _Cell] = {}

    def add(self, outcome: Outcome, good: bool) -> None:
        """One more outcome."""
        if outcome.answer is not None:
            self._cell(outcome.done).completed += 1
        cell = self._cell(outcome.at)
        cell.kinds[outcome.kind] += 1
        cell.good += good
        cell.degraded += outcome.answer is not None and bool(outcome.answer.degradations)
        if outcome.kind in _WAITED:
            cell.latency.record(outcome.latency_ms)

    def figures(self, end_s: float) -> list[Interval]:
        """For the report; ``end_s``: of the replay, so that the last interval's rate is not too low."""
        found = []
        for place in sorted(self._cells):
            cell, at = self._cells[place], place * self.width_s
            width = min(self.width_s, max(end_s - at, 1e-3))
            arrived = sum(cell.kinds.values())
            known = cell.latency.count > 0
            found.append(
                Interval(
                    at,
                    width,
                    arrived / width,
                    cell.completed / width,
                    cell.good / width,
                    cell.latency.quantile(0.5) if known else None,
                    cell.latency.quantile(0.99) if known else None,
                    cell.degraded,
                    cell.kinds["shed"],
                    cell.kinds["error"],
                    cell.kinds["timeout"],
                    cell.kinds["dropped"],
                )
            )
        return found

    def _cell(self, at: float) -> _Cell:
        while (place := int(at / self.width_s)) >= self._limit:
            self._double()
        cell = self._cells.get(place)
        if cell is None:
            cell = self._cells[place] = _Cell()
        return cell

    def _double(self) -> None:
        self.width_s *= 2
        cells: dict[int, _Cell] = {}
        for place, cell in self._cells.items():
            whole = cells.get(place // 2)
            if whole is None:
                cells[place // 2] = cell
            else:
                whole.merge(cell)
        self._cells = cells


class _Cell:
    __slots__ = ("completed", "degraded", "good", "kinds", "latency")

    def __init__(self) -> None:
        self.kinds = dict.fromkeys(KINDS, 0)
        self.latency = Histogram(relative_error=0.02)
        self.completed = 0
        self.good = 0
        self.degraded = 0

    def merge(self, other: _Cell) -> None:
        for kind in KINDS:
            self.kinds[kind] += other.kinds[kind]
        self.latency.merge(other.latency)
        self.completed += other.completed
        self.good += other.good
        self.degraded += other.degraded


def quantiles_of(histogram: Histogram) -> Quantiles:
    """For the report."""
    count = histogram.count
    if not count:
        return Quantiles(0)
    p50, p90, p95, p99, p999 = (float(value) for value in histogram.quantiles(_POINTS))
    return Quantiles(count, histogram.sum / count, p50, p90, p95, p99, p999, histogram.max)


def curve_of(histogram: Histogram) -> list[CurvePoint]:
    """Latency by quantile, as far as there are ten queries beyond it."""
    count = histogram.count
    # The median comes with any number of queries.
    known = [q for q in CURVE if count and (q <= 0.5 or (1 - q) * count >= 10)]
    return [CurvePoint(q, histogram.quantile(q)) for q in known]


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
