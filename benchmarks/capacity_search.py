"""A system under load: what it answers, and the highest rate at which it holds a P99."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from benchmarks.capacity_policy import Held, Needs, Tally, Timing, search
from benchmarks.gpu_load import Load, closed_loop
from searchpipe.replay.capacity import Run
from searchpipe.replay.capacity_run import one_run
from searchpipe.replay.entry import Entry
from searchpipe.replay.load import LoadSettings
from searchpipe.replay.outcome import Answer, Item

CALLERS = 16
"""That never pause, for the saturated rate."""

_PATIENCE_S = 1.0
_ALONE = 40
T = TypeVar("T")


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
    """A system as replay's load asks it, counted. Any thread may call anything.

    An answer with fewer pairs scored than asked for is degraded.

    Attributes:
        tally: of the queries that were answered.
    """

    def __init__(self, system: System, candidates: int) -> None:
        self._system = system
        self._candidates = candidates
        self._lock = threading.Lock()
        self.tally = Tally()

    def ask(self, text: str) -> Ranked:
        """Ask and count."""
        found = self._system.ask(text)
        with self._lock:
            self.tally.queries += 1
            self.tally.pairs += found.scored
            self.tally.shortened += found.scored < self._candidates
        return found

    @property
    def missing_share(self) -> float:
        """Of the candidates of all queries: not scored; 0 without queries."""
        return max(0.0, 1.0 - self.tally.pairs_per_query / self._candidates) if self.tally.queries else 0.0

    def search(self, entry: Entry) -> Answer:
        """Ask the system; what it raises counts as a failed query."""
        found = self.ask(entry.query)
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


class Around(Protocol):
    """Called with each longer load, to measure beside it; callers that never pause have an infinite rate."""

    def __call__(self, rate: float, measured: Callable[[], T], /) -> T:
        """Run ``measured`` and return what it gives."""
        ...


def hold_p99(
    system: System,
    texts: Sequence[str],
    *,
    needs: Needs,
    candidates: int,
    seed: int,
    timing: Timing,
    around: Around | None = None,
) -> Held:
    """Find the capacity of ``system`` at a P99 from the intended start.

    Every short run takes the queries in the same shuffled order and the same Poisson arrivals, stretched to
    its rate; the longer runs take others.

    Args:
        system: warmed up.
        texts: queries.
        needs: what counts as holding.
        candidates: pairs that a query has scored if nothing is left out.
        seed: of order and arrivals.
        timing: lengths.
        around: called with each longer run and with the callers that never pause.
    """
    entries = [Entry(0.0, text) for text in texts]
    bounds = LoadSettings(max_in_flight=system.threads, patience_s=_PATIENCE_S, max_waiting=4096)
    watched = around or _unwatched
    tallies: dict[float, Tally] = {}

    def run(rate: float, seconds: float, runs_seed: int) -> Run:
        target = SystemTarget(system, candidates)

        def measured() -> Run | None:
            return one_run(
                entries, target, rate, seconds, timing.warm_up_s, bounds, needs.p99_ms, runs_seed, None
            )

        seen = measured() if runs_seed == seed else watched(rate, measured)
        if seen is None:
            raise KeyboardInterrupt
        tallies[rate] = target.tally
        return msgspec.structs.replace(seen, degraded_share=target.missing_share)

    found = Held()
    found.alone_ms = 1e3 * statistics.median(_seconds(system, text) for text in texts[:_ALONE])
    target, callers = SystemTarget(system, candidates), min(CALLERS, system.threads)

    def saturate() -> Load:
        return closed_loop(target.ask, texts, callers=callers, duration_s=timing.saturated_s)

    found.saturated = watched(math.inf, saturate).rate
    if found.alone_ms > needs.p99_ms:
        found.why = f"one query alone takes {found.alone_ms:.1f} ms (median), over the {needs.p99_ms:g} ms"
        return found
    # Under a budget so many callers get shortened answers; in full there were fewer.
    full_rate = found.saturated * (1.0 - target.missing_share)
    search(found, run, needs=needs, full_rate=full_rate, seed=seed, timing=timing)
    found.tally = tallies.get(found.rate, Tally())
    return found


def _unwatched(_rate: float, measured: Callable[[], T], /) -> T:
    return measured()


def _seconds(system: System, text: str) -> float:
    begin = time.perf_counter()
    system.ask(text)
    return time.perf_counter() - begin
