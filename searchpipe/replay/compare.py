"""Two sides on one log: asked query by query in turn, compared in pairs."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from searchpipe.errors import ConfigError
from searchpipe.evaluate.significance import bootstrap_interval
from searchpipe.replay.clock import Clock, RealClock
from searchpipe.replay.compare_figures import (
    COMPARISON_FORMAT,
    ChangedQuery,
    ComparisonReport,
    GroupComparison,
    Overlap,
    PlacedItem,
    SideFigures,
)
from searchpipe.replay.entry import Entry
from searchpipe.replay.load import attempt
from searchpipe.replay.outcome import Item, Outcome
from searchpipe.replay.paired import LEVEL, RESAMPLES, Values, known, mean_difference, quantile_difference
from searchpipe.replay.quality import Quality, quality_of
from searchpipe.replay.rbo import rbo
from searchpipe.replay.reader import LogReader, ReadSettings
from searchpipe.replay.run import log_figures
from searchpipe.replay.sample import sample_entries
from searchpipe.replay.schedule import Arrival
from searchpipe.replay.strata import STRATA, TrafficStrata, counted_strata
from searchpipe.replay.targets import Target
from searchpipe.replay.verdict import Thresholds, check_all, check_possible

_ITEMS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """How two sides are compared. Immutable.

    Attributes:
        queries: at most so many of the log, drawn evenly.
        warm_up: of these, the first are asked and not measured.
        seed: of the draw, of who is asked first, and of the intervals.
        p: persistence of RBO.
        shown: queries that changed most in the report.
        thresholds: of the verdict.
        read: of the log.
    """

    queries: int = 10_000
    warm_up: int = 20
    seed: int = 0
    p: float = 0.9
    shown: int = 20
    thresholds: Thresholds = field(default_factory=Thresholds)
    read: ReadSettings = field(default_factory=lambda: ReadSettings(needs_time=False))

    def __post_init__(self) -> None:
        if self.queries < 1 or self.warm_up < 0 or self.shown < 0:
            raise ConfigError("queries must be 1 or more, warm_up and shown 0 or more.")


Tell = Callable[[int, int], None]
"""Called with the queries asked so far and all of them."""


def compare_sides(
    log: Path,
    names: tuple[str, str],
    targets: tuple[Target, Target],
    plan: ComparePlan | None = None,
    *,
    tell: Tell | None = None,
    clock: Clock | None = None,
) -> ComparisonReport:
    """Ask both sides each query, one after the other in random order, and compare.

    Latency is that of one query alone on the machine. Ctrl-C ends it with what was seen until then.

    Args:
        log: see :class:`searchpipe.replay.reader.LogReader`.
        names: of A and B.
        targets: A and B; not closed.
        plan: how.
        tell: told after each query.
        clock: time.

    Raises:
        LogError: the log cannot be read.
        ConfigError: a threshold that the log can say nothing about.
    """
    plan = plan or ComparePlan()
    reader = LogReader(log, plan.read)
    found, entries = counted_strata(reader, lambda passing: sample_entries(passing, plan.queries, plan.seed))
    check_possible(plan.thresholds, entries)
    started = datetime.now(UTC)
    pairs = _Pairs(plan)
    interrupted = _ask(entries, targets, pairs, plan, tell, clock or RealClock())
    measured = entries[pairs.skipped : pairs.skipped + len(pairs.rows)]
    whole, strata = _groups(pairs, measured, found, plan)
    a, b = (_side(name, pairs, place) for place, name in enumerate(names))
    checks = check_all(whole, a, b, plan.thresholds)
    from searchpipe import __version__
    from searchpipe.backends.machine import cpu_summary, memory_summary

    return ComparisonReport(
        format=COMPARISON_FORMAT,
        searchpipe=__version__,
        started=started.isoformat(timespec="seconds"),
        machine={"cpu": cpu_summary(), "memory": memory_summary()},
        seed=plan.seed,
        warm_up_queries=pairs.skipped,
        interrupted=interrupted,
        log=log_figures(log, reader.whole or reader.notes),
        a=a,
        b=b,
        whole=whole,
        strata=strata,
        changed=pairs.most_changed(),
        checks=checks,
        passed=all(check.passed for check in checks),
    )


def _ask(
    entries: Sequence[Entry],
    targets: tuple[Target, Target],
    pairs: _Pairs,
    plan: ComparePlan,
    tell: Tell | None,
    clock: Clock,
) -> bool:
    """Fill ``pairs``; returns whether it was interrupted."""
    start = clock.now()
    dice = random.Random(plan.seed)
    # A log that is shorter than the warm-up is measured all the same.
    warm_up = plan.warm_up if len(entries) > 2 * plan.warm_up else 0

    def elapsed() -> float:
        return clock.now() - start

    try:
        for number, entry in enumerate(entries):
            both: list[Outcome | None] = [None, None]
            for place in (0, 1) if dice.random() < 0.5 else (1, 0):
                both[place] = attempt(targets[place], Arrival(elapsed(), entry), elapsed)
            a, b = both
            assert a is not None
            assert b is not None
            if number < warm_up:
                pairs.skipped += 1
            else:
                pairs.add(entry, a, b)
            if tell is not None:
                tell(number + 1, len(entries))
    except KeyboardInterrupt:
        return True
    return False


class _Pairs:
    """What both sides answered, as 8 numbers a query. For one thread."""

    def __init__(self, plan: ComparePlan) -> None:
        self._plan = plan
        self.skipped = 0
        self.rows: list[tuple[float, ...]] = []
        self.answered = [0, 0]
        self.degraded = [0, 0]
        self.cached = [0, 0]
        self.failed: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self.given_up: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._changed: list[tuple[float, float, int, ChangedQuery]] = []

    def add(self, entry: Entry, a: Outcome, b: Outcome) -> None:
        """One query."""
        of = [self._quality(entry, place, outcome) for place, outcome in enumerate((a, b))]
        alike = float("nan")
        if a.answer is not None and b.answer is not None:
            alike = rbo(a.answer.ids, b.answer.ids, self._plan.p)
            self._keep(entry, a, b, alike, of)
        times = [o.latency_ms if o.answer is not None else float("nan") for o in (a, b)]
        self.rows.append(
            (*times, of[0].ndcg, of[1].ndcg, of[0].recall, of[1].recall, of[0].rr, of[1].rr, alike)
        )

    def columns(self) -> Values:
        """float64 ``(9, queries)``: latency, nDCG, recall, rr (A and B each), RBO."""
        return np.array(self.rows, np.float64).reshape(-1, 9).T

    def most_changed(self) -> list[ChangedQuery]:
        """The least alike pages first."""
        return [row[3] for row in sorted(self._changed, reverse=True)]

    def _quality(self, entry: Entry, place: int, outcome: Outcome) -> Quality:
        answer = outcome.answer
        if answer is None:
            self.failed[place][f"{outcome.kind}: {outcome.code}"] += 1
            return Quality()
        self.answered[place] += 1
        self.degraded[place] += bool(answer.degradations)
        self.cached[place] += answer.cached
        for what in {f"{stage}: {reason}" for stage, reason, _ in answer.degradations}:
            self.given_up[place][what] += 1
        return quality_of(answer.ids, entry.labels, entry.clicks)

    def _keep(self, entry: Entry, a: Outcome, b: Outcome, alike: float, of: list[Quality]) -> None:
        """Keep it if it is among the most changed; ties go to the larger change of nDCG."""
        change = abs(of[0].ndcg - of[1].ndcg)
        key = (-alike, 0.0 if change != change else change, -len(self.rows))
        full = len(self._changed) >= self._plan.shown
        if alike >= 1 - 1e-12 or (full and (not self._changed or key <= self._changed[0][:3])):
            return
        assert a.answer is not None
        assert b.answer is not None
        changed = ChangedQuery(
            entry.query.encode("utf-8", "replace").decode("utf-8")[:500],
            alike,
            a.latency_ms,
            b.latency_ms,
            known(of[0].ndcg),
            known(of[1].ndcg),
            _placed(a.answer.items),
            _placed(b.answer.items),
        )
        (heapq.heappushpop if full else heapq.heappush)(self._changed, (*key, changed))


def _groups(
    pairs: _Pairs, entries: Sequence[Entry], strata: TrafficStrata, plan: ComparePlan
) -> tuple[GroupComparison, dict[str, GroupComparison]]:
    columns = pairs.columns()
    names = np.array([strata.of(entry) for entry in entries], dtype=object)
    by_name = {name: _group(columns[:, names == name], plan) for name in STRATA}
    return _group(columns, plan), by_name


def _group(columns: Values, plan: ComparePlan) -> GroupComparison:
    a_ms, b_ms, a_ndcg, b_ndcg, a_recall, b_recall, a_rr, b_rr, alike = columns
    seed = plan.seed
    same = alike[~np.isnan(alike)]
    low, high = bootstrap_interval(same, level=LEVEL, resamples=RESAMPLES, seed=seed)
    return GroupComparison(
        columns.shape[1],
        mean_difference(a_ms, b_ms, higher_is_better=False, seed=seed),
        quantile_difference(a_ms, b_ms, 0.5, seed=seed),
        quantile_difference(a_ms, b_ms, 0.99, seed=seed),
        mean_difference(a_ndcg, b_ndcg, higher_is_better=True, seed=seed),
        mean_difference(a_recall, b_recall, higher_is_better=True, seed=seed),
        mean_difference(a_rr, b_rr, higher_is_better=True, seed=seed),
        Overlap(
            int(same.size),
            plan.p,
            float(same.mean()) if same.size else None,
            known(low),
            known(high),
            float(np.quantile(same, 0.1)) if same.size else None,
            int(np.sum(same >= 1 - 1e-12)),
        ),
    )


def _side(name: str, pairs: _Pairs, place: int) -> SideFigures:
    return SideFigures(
        name,
        pairs.answered[place],
        dict(pairs.failed[place].most_common(50)),
        pairs.degraded[place],
        dict(pairs.given_up[place].most_common(50)),
        pairs.cached[place],
    )


def _placed(items: Sequence[Item]) -> list[PlacedItem]:
    return [PlacedItem(item.id, item.title, item.score) for item in items[:_ITEMS_SHOWN]]
