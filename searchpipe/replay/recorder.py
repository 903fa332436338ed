"""Everything that is counted while a replay runs, in bounded memory."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from searchpipe._core import Histogram
from searchpipe.replay.figures import CurvePoint, DegradationFigures, Group, Interval, Quantiles, StageFigures
from searchpipe.replay.outcome import Outcome
from searchpipe.replay.quality import Quality, quality_of
from searchpipe.replay.strata import STRATA, TrafficStrata
from searchpipe.replay.tally import Mean, Tally, Timeline, curve_of, quantiles_of

# Names come from the target: a broken one must not fill the memory with them.
_MAX_NAMES = 256
_OTHER = "other"


@dataclass(frozen=True, slots=True)
class Live:
    """Of the answers since the last look, for a progress line. Latencies in milliseconds."""

    arrived: int
    answered: int
    failed: int
    recent: int
    p50_ms: float
    p99_ms: float


@dataclass(slots=True)
class _Stage:
    ms: Histogram = field(default_factory=Histogram)
    start: Mean = field(default_factory=Mean)


@dataclass(slots=True)
class _GivenUp:
    queries: int = 0
    amount: Mean = field(default_factory=Mean)


class Recorder:
    """Takes outcomes from any thread.

    Args:
        warm_up_s: outcomes whose intended start is before it are only counted.
        strata: of the queries; None leaves strata out.
        goal_ms: what counts as good, in milliseconds; None for the budget that each page names.
    """

    def __init__(
        self, *, warm_up_s: float = 0.0, strata: TrafficStrata | None = None, goal_ms: float | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._warm_up_s = warm_up_s
        self._strata = strata
        self._goal_ms = goal_ms
        self._whole = Tally()
        self._by_stratum = {name: Tally() for name in STRATA} if strata is not None else {}
        self._stages: dict[str, _Stage] = {}
        self._given_up: dict[tuple[str, str], _GivenUp] = {}
        self._timeline = Timeline()
        self._lag = Histogram()
        self._recent = Histogram()
        self.errors: Counter[str] = Counter()
        self.snapshots: Counter[str] = Counter()
        self.warm_up_queries = 0

    def observe(self, outcome: Outcome) -> None:
        """Count one outcome."""
        answer = outcome.answer
        quality = (
            quality_of(answer.ids, outcome.entry.labels, outcome.entry.clicks)
            if answer is not None
            else Quality()
        )
        good = self._good(outcome)
        with self._lock:
            if outcome.kind == "answered":
                self._recent.record(outcome.latency_ms)
            if outcome.at < self._warm_up_s:
                self.warm_up_queries += 1
                return
            self._whole.add(outcome, quality, good)
            if self._strata is not None:
                self._by_stratum[self._strata.of(outcome.entry)].add(outcome, quality, good)
            self._timeline.add(outcome, good)
            self._lag.record(max(0.0, outcome.started - outcome.at) * 1e3)
            if outcome.code:
                self._count(self.errors, f"{outcome.kind}: {outcome.code}")
            if answer is None:
                return
            self._count(self.snapshots, answer.snapshot)
            for stage, start_ms, ms in answer.spans:
                known = self._stages.get(stage)
                if known is None:
                    if len(self._stages) >= _MAX_NAMES:
                        continue
                    known = self._stages[stage] = _Stage()
                known.start.add(start_ms)
                known.ms.record(max(0.0, ms))
            # A stage may give up twice for one reason: the answer counts once, with the larger share.
            amounts: dict[tuple[str, str], float] = {}
            for stage, reason, amount in answer.degradations:
                amounts[stage, reason] = max(amount, amounts.get((stage, reason), 0.0))
            for key, amount in amounts.items():
                if key not in self._given_up and len(self._given_up) >= _MAX_NAMES:
                    key = _OTHER, _OTHER
                row = self._given_up.setdefault(key, _GivenUp())
                row.queries += 1
                row.amount.add(amount)

    def live(self) -> Live:
        """Since the last call."""
        with self._lock:
            recent, self._recent = self._recent, Histogram()
            kinds = self._whole.kinds
            total = sum(kinds.values())
            return Live(
                total,
                kinds["answered"],
                total - kinds["answered"],
                recent.count,
                recent.quantile(0.5),
                recent.quantile(0.99),
            )

    def whole(self, seconds: float) -> Group:
        """All queries after the warm-up."""
        with self._lock:
            return self._whole.figures(seconds)

    def strata(self, seconds: float) -> dict[str, Group]:
        """By stratum; empty where none were found."""
        with self._lock:
            return {name: tally.figures(seconds) for name, tally in self._by_stratum.items()}

    def stages(self) -> list[StageFigures]:
        """In the order of their mean start."""
        with self._lock:
            found = [
                StageFigures(name, stage.start.value or 0.0, quantiles_of(stage.ms))
                for name, stage in self._stages.items()
            ]
        return sorted(found, key=lambda figures: figures.start_ms)

    def degradations(self) -> list[DegradationFigures]:
        """The most frequent first."""
        with self._lock:
            answered = self._whole.kinds["answered"]
            found = [
                DegradationFigures(
                    stage, reason, row.queries, row.queries / answered, row.amount.value or 0.0
                )
                for (stage, reason), row in self._given_up.items()
            ]
        return sorted(found, key=lambda row: (-row.queries, row.stage, row.reason))

    def timeline(self, end_s: float) -> list[Interval]:
        """By intended start."""
        with self._lock:
            return self._timeline.figures(end_s)

    def lag(self) -> Quantiles:
        """How late queries were sent."""
        with self._lock:
            return quantiles_of(self._lag)

    def curve(self) -> list[CurvePoint]:
        """Latency by quantile."""
        with self._lock:
            return curve_of(self._whole.latency)

    def _good(self, outcome: Outcome) -> bool:
        if outcome.answer is None:
            return False
        goal = self._goal_ms if self._goal_ms is not None else outcome.answer.budget_ms
        return outcome.latency_ms <= goal

    @staticmethod
    def _count(counter: Counter[str], name: str) -> None:
        counter[name if name in counter or len(counter) < _MAX_NAMES else _OTHER] += 1
