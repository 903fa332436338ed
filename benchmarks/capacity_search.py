"""The highest rate that one system holds at a P99, found in little time: bisection, then one longer run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from benchmarks.gpu_load import closed_loop
from searchpipe.replay.capacity import CapacitySettings, Run, find_capacity, holds_target
from searchpipe.replay.capacity_run import one_run
from searchpipe.replay.entry import Entry
from searchpipe.replay.load import LoadSettings
from searchpipe.replay.outcome import Answer, Item

GUESSED_SHARE = 0.8
"""Of the rate with callers that never pause: where the search begins."""

TOLERANCE = 0.06
"""Relative width of the last bracket."""

_PATIENCE_S = 1.0
_LEAST_QUERIES = 300  # of a run, so that its P99 is more than its slowest query
_ALONE = 40
_GUESSING_CALLERS = 16
_GUESSING_S = 1.5
_LEAST_RATE, _MOST = 0.1, 2.0
"""Of the first guess: where the search is given up."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a system answers: documents best first with their scores, and how many pairs it scored.

    Attributes:
        documents: row numbers in the catalog, at least the first ten.
        scores: logits of these.
        scored: pairs scored for this query.
    """

    documents: tuple[int, ...]
    scores: tuple[float, ...]
    scored: int


class System(Protocol):
    """Text in, ranked documents out. ``ask`` is called from ``threads`` threads at once."""

    threads: int

    def ask(self, text: str) -> Ranked:
        """Encode the query, find the nearest documents, score all of them, sort."""
        ...

    def counts(self) -> dict[str, float]:
        """Counters that only grow: what batches held since the system was opened."""
        ...

    def describe(self) -> str:
        """One line: what runs with which settings."""
        ...

    def close(self) -> None:
        """End threads and servers. Idempotent."""
        ...


class SystemTarget:
    """A system as replay's load asks it. An answer with fewer pairs scored than asked for is degraded."""

    def __init__(self, system: System, candidates: int) -> None:
        self._system = system
        self._candidates = candidates

    def search(self, entry: Entry) -> Answer:
        """Ask the system; what it raises counts as a failed query."""
        found = self._system.ask(entry.query)
        items = tuple(
            Item(str(row), score, "") for row, score in zip(found.documents, found.scores, strict=True)
        )
        missing = 1.0 - found.scored / self._candidates
        given_up = (("score", "shortened", missing),) if missing > 0 else ()
        return Answer(items, 0.0, float("inf"), given_up)

    def describe(self) -> str:
        """As the system."""
        return self._system.describe()

    def close(self) -> None:
        """The system belongs to the caller."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the search may take, in seconds."""

    run_s: float = 2.5
    warm_up_s: float = 0.5
    confirm_s: float = 8.0
    limit_s: float = 45.0


@dataclass(slots=True)
class Held:
    """The result for one system.

    Attributes:
        rate: queries a second that it holds in the longer run; 0 if none.
        confirmed: that run; None if there was none that held.
        alone_ms: median latency of one query at a time, in milliseconds.
        saturated: answers a second with 16 callers that never pause, whatever the latency.
        runs: all, in their order.
        why: what ended the search before its end; empty if nothing did.
    """

    rate: float = 0.0
    confirmed: Run | None = None
    alone_ms: float = 0.0
    saturated: float = 0.0
    runs: list[Run] = field(default_factory=list)
    why: str = ""


class _OutOfTimeError(Exception):
    """The search ends with what was seen."""


OneRun = Callable[[float, float, int], Run]
"""``(rate, seconds, seed) -> run``."""


def hold_p99(
    system: System,
    texts: Sequence[str],
    *,
    p99_ms: float,
    candidates: int,
    seed: int,
    timing: Timing,
    around_confirmed: Callable[[Callable[[], Run]], Run] | None = None,
) -> Held:
    """Find the capacity of ``system`` at ``p99_ms`` from the intended start.

    Every run takes the queries in the same shuffled order and the same Poisson arrivals, stretched to its
    rate; the confirming runs take others. A query that was not scored in full counts as failed.

    Args:
        system: warmed up.
        texts: queries.
        p99_ms: target in milliseconds.
        candidates: pairs that each query must have scored.
        seed: of order and arrivals.
        timing: lengths.
        around_confirmed: called with each confirming run, to measure beside it.
    """
    target = SystemTarget(system, candidates)
    entries = [Entry(0.0, text) for text in texts]
    bounds = LoadSettings(max_in_flight=system.threads, patience_s=_PATIENCE_S, max_waiting=4096)

    def run(rate: float, seconds: float, runs_seed: int) -> Run:
        found = one_run(entries, target, rate, seconds, timing.warm_up_s, bounds, p99_ms, runs_seed, None)
        if found is None:
            raise KeyboardInterrupt
        return found

    found = Held()
    found.alone_ms = 1e3 * statistics.median(_seconds(system, text) for text in texts[:_ALONE])
    callers = min(_GUESSING_CALLERS, system.threads)
    found.saturated = closed_loop(system.ask, texts, callers=callers, duration_s=_GUESSING_S).rate
    if found.alone_ms > p99_ms:
        found.why = f"one query alone takes {found.alone_ms:.1f} ms (median), over the {p99_ms:g} ms"
        return found
    search(found, run, p99_ms=p99_ms, seed=seed, timing=timing, around_confirmed=around_confirmed)
    return found


def search(
    found: Held,
    run: OneRun,
    *,
    p99_ms: float,
    seed: int,
    timing: Timing,
    around_confirmed: Callable[[Callable[[], Run]], Run] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Bisect from ``found.saturated`` and confirm; fills ``found``. Policy alone: ``run`` puts the load."""
    guess = max(1.0, GUESSED_SHARE * found.saturated)
    settings = CapacitySettings(
        p99_ms=p99_ms,
        start_rate=guess,
        max_rate=_MOST * guess,
        tolerance=TOLERANCE,
        repeats=1,
        max_failed_share=0.001,
        max_degraded_share=0.0,
    )
    ends = now() + timing.limit_s

    def probe(rate: float, _number: int) -> Run:
        if now() > ends:
            raise _OutOfTimeError(f"{timing.limit_s:g} s were over")
        if rate < _LEAST_RATE * guess:
            raise _OutOfTimeError(f"not even {2 * rate:.1f} queries/s hold")
        return run(rate, min(2 * timing.run_s, max(timing.run_s, _LEAST_QUERIES / rate)), seed)

    try:
        find_capacity(probe, settings, found.runs.append)
    except _OutOfTimeError as error:
        found.why = str(error)
    # By what failed: a rate that held above one that did not was luck.
    failed = min((seen.rate for seen in found.runs if not seen.holds), default=float("inf"))
    rate = max((seen.rate for seen in found.runs if seen.holds and seen.rate < failed), default=0.0)
    untried = rate if failed == float("inf") else float("inf")
    around = around_confirmed or (lambda measured: measured())
    while rate >= _LEAST_RATE * guess:
        longer = around(partial(run, rate, timing.confirm_s, seed + 1))
        longer = msgspec.structs.replace(longer, holds=holds_target(longer, settings))
        found.runs.append(longer)
        if longer.holds:
            found.rate, found.confirmed = rate, longer
            if rate == untried:
                found.why = found.why or "the search ended at twice the first guess, which still held"
            return
        rate /= 1 + TOLERANCE
        if now() > ends + timing.confirm_s:
            found.why = "no rate held in the longer run before the time was over"
            return


def _seconds(system: System, text: str) -> float:
    begin = time.perf_counter()
    system.ask(text)
    return time.perf_counter() - begin
