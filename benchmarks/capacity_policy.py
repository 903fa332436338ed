"""The highest rate that holds a P99, in little time: bisection, confirmation, refinement. Pure policy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from searchpipe.replay.capacity import CapacitySettings, Run, find_capacity, holds_target

GUESSED_SHARE = 0.8
"""Of the rate with callers that never pause: where the search begins."""

COARSE, TOLERANCE = 0.06, 0.03
"""Relative width of the last bracket, of the short runs and of the longer ones."""

ROOM = 0.9
"""Of the target: below, what failed just above in a short run may have failed by bad luck."""

LEAST_QUERIES = 300
"""Of a run, so that its P99 is more than its slowest query."""

LEAST_RATE, MOST_RATE = 0.1, 2.0
"""Of the first guess: where the search is given up."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What counts as holding.

    Attributes:
        p99_ms: target from the intended start, in milliseconds.
        scored_share: of the candidates that must be scored, on average over the queries of a run.
        failed_share: of queries without an answer, at most.
    """

    p99_ms: float
    scored_share: float = 1.0
    failed_share: float = 0.001


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the search may take, in seconds."""

    run_s: float = 2.5
    warm_up_s: float = 0.5
    confirm_s: float = 12.0
    limit_s: float = 70.0
    saturated_s: float = 3.0


@dataclass(slots=True)
class Tally:
    """What was scored in one load, its warm-up included."""

    queries: int = 0
    pairs: int = 0
    shortened: int = 0

    @property
    def pairs_per_query(self) -> float:
        """Mean; 0 without queries."""
        return self.pairs / self.queries if self.queries else 0.0

    @property
    def shortened_share(self) -> float:
        """Of the queries that had fewer pairs scored than they had candidates."""
        return self.shortened / self.queries if self.queries else 0.0


@dataclass(slots=True)
class Held:
    """The result for one system.

    In the runs ``degraded_share`` is the share of the candidates that were not scored.

    Attributes:
        rate: queries a second that it holds in the longer run; 0 if none.
        fails_at: the lowest rate above it that failed; None if none was seen.
        confirmed: the longer run at ``rate``; None if there was none that held.
        tally: of that run.
        alone_ms: median latency of one query at a time, in milliseconds.
        saturated: answers a second with 16 callers that never pause, whatever the latency.
        runs: all, in their order.
        why: what ended the search before its end; empty if nothing did.
    """

    rate: float = 0.0
    fails_at: float | None = None
    confirmed: Run | None = None
    tally: Tally = field(default_factory=Tally)
    alone_ms: float = 0.0
    saturated: float = 0.0
    runs: list[Run] = field(default_factory=list)
    why: str = ""


class _OutOfTimeError(Exception):
    """The search ends with what was seen."""


OneRun = Callable[[float, float, int], Run]
"""``(rate, seconds, seed) -> run``."""


def search(
    found: Held,
    run: OneRun,
    *,
    needs: Needs,
    full_rate: float,
    seed: int,
    timing: Timing,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Fill ``found`` with the highest rate that holds.

    Short runs, all with the arrivals of ``seed``, are bisected to :data:`COARSE`. The best rate is confirmed
    in a longer run with those of ``seed + 1``, or lowered until one is. Then longer runs between it and the
    next rate that failed narrow the bracket to :data:`TOLERANCE`; where the P99 leaves :data:`ROOM`, those
    that failed in a short run are tried again first.

    Args:
        found: filled here.
        run: puts the load.
        needs: what counts as holding.
        full_rate: queries a second that callers who never pause would have scored in full.
        seed: of the short runs.
        timing: lengths. No refining run is begun that would end after ``limit_s``.
        now: monotonic seconds.
    """
    guess = max(1.0, GUESSED_SHARE * full_rate)
    settings = CapacitySettings(
        p99_ms=needs.p99_ms,
        start_rate=guess,
        max_rate=MOST_RATE * guess,
        tolerance=COARSE,
        repeats=1,
        max_failed_share=needs.failed_share,
        max_degraded_share=1.0 - needs.scored_share,
    )
    ends = now() + timing.limit_s

    def probe(rate: float, _number: int) -> Run:
        if now() > ends:
            raise _OutOfTimeError(f"{timing.limit_s:g} s were over")
        if rate < LEAST_RATE * guess:
            raise _OutOfTimeError(f"not even {2 * rate:.1f} queries/s hold")
        return run(rate, min(2 * timing.run_s, max(timing.run_s, LEAST_QUERIES / rate)), seed)

    try:
        find_capacity(probe, settings, found.runs.append)
    except _OutOfTimeError as error:
        found.why = str(error)
    _Longer(found, run, settings, seed + 1, timing.confirm_s, lambda: ends - now()).search(LEAST_RATE * guess)


@dataclass(slots=True)
class _Longer:
    """The longer runs of one search. For one thread."""

    found: Held
    run: OneRun
    settings: CapacitySettings
    seed: int
    seconds: float
    left_s: Callable[[], float]
    failed: float = math.inf

    def search(self, least: float) -> None:
        """Confirm and refine what the short runs found; give up below ``least``."""
        found = self.found
        # By what failed: a rate that held above one that did not was luck.
        doubtful = sorted({seen.rate for seen in found.runs if not seen.holds})
        below = doubtful[0] if doubtful else math.inf
        rate = max((seen.rate for seen in found.runs if seen.holds and seen.rate < below), default=0.0)
        if rate < least:
            return
        while not self._holds(rate):
            rate /= 1 + COARSE
            if rate < least or self.left_s() < -self.seconds:
                found.why = found.why or "no rate held in the longer run before the time was over"
                return
        if doubtful or math.isfinite(self.failed):
            self._refine(doubtful)
        else:
            found.why = found.why or "the search ended at twice the first guess, which still held"

    def _refine(self, doubtful: list[float]) -> None:
        """Narrow the bracket; ``doubtful`` are the rates that failed in short runs, ascending."""
        found = self.found
        while True:
            doubtful = [rate for rate in doubtful if rate > found.rate]
            ceiling = min([self.failed, *doubtful[:1]])
            found.fails_at = ceiling if math.isfinite(ceiling) else None
            rate = self._next(ceiling)
            if rate is None:
                return
            if rate > self.settings.max_rate:
                found.why = found.why or "the search ended at twice the first guess"
                return
            if self.left_s() < self.seconds:
                found.why = found.why or "the time was over before the last refinement"
                return
            self._holds(rate)

    def _next(self, ceiling: float) -> float | None:
        """The rate of the next run; None if the bracket is narrow enough."""
        confirmed = self.found.confirmed
        assert confirmed is not None
        assert confirmed.p99_ms is not None
        room = confirmed.p99_ms < ROOM * self.settings.p99_ms
        if not math.isfinite(ceiling):
            return confirmed.rate * (1 + (COARSE if room else TOLERANCE))
        if room and ceiling < self.failed:
            return ceiling
        # A hair above, so that a bracket of just this width is not cut once more by rounding.
        return math.sqrt(confirmed.rate * ceiling) if ceiling / confirmed.rate > 1.0001 + TOLERANCE else None

    def _holds(self, rate: float) -> bool:
        longer = self.run(rate, self.seconds, self.seed)
        longer = msgspec.structs.replace(longer, holds=holds_target(longer, self.settings))
        self.found.runs.append(longer)
        if longer.holds:
            self.found.rate, self.found.confirmed = rate, longer
        else:
            self.failed = min(self.failed, rate)
        return longer.holds
