"""The search for a capacity with real load on a target."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from searchpipe.replay.capacity import (
    CAPACITY_FORMAT,
    Capacity,
    CapacityReport,
    CapacitySettings,
    Run,
    Step,
    Told,
    find_capacity,
)
from searchpipe.replay.clock import Clock
from searchpipe.replay.entry import Entry
from searchpipe.replay.load import Load, LoadSettings
from searchpipe.replay.reader import LogReader, ReadSettings
from searchpipe.replay.recorder import Recorder
from searchpipe.replay.sample import sample_entries
from searchpipe.replay.schedule import Fixed
from searchpipe.replay.targets import Target

SAMPLE = 20_000
"""Queries of the log that the runs draw from."""


def measure_capacity(
    log: Path,
    target: Target,
    settings: CapacitySettings,
    *,
    run_s: float = 10.0,
    warm_up_s: float = 2.0,
    bounds: LoadSettings | None = None,
    read: ReadSettings | None = None,
    seed: int = 0,
    told: Told | None = None,
    clock: Clock | None = None,
) -> CapacityReport:
    """Find the highest rate of Poisson arrivals that holds the target.

    Each run takes other queries of the log and other arrivals, both by the seed. Ctrl-C ends the
    search with what was seen until then.

    Args:
        log: see :class:`searchpipe.replay.reader.LogReader`.
        target: not closed.
        settings: of the search.
        run_s: length of one run after its warm-up, in seconds.
        warm_up_s: not measured.
        bounds: of the load.
        read: of the log.
        seed: of queries and arrivals.
        told: told after each run.
        clock: time.

    Raises:
        LogError: the log cannot be read.
        ConfigError: a value outside its limits.
    """
    Fixed(settings.start_rate, run_s)  # refuses a length of 0
    reader = LogReader(log, read or ReadSettings(needs_time=False))
    entries = sample_entries(reader, SAMPLE, seed)
    started = datetime.now(UTC)
    seen: list[Run] = []
    interrupted = False

    def probe(rate: float, number: int) -> Run:
        run = one_run(
            entries,
            target,
            rate,
            run_s,
            warm_up_s,
            bounds or LoadSettings(),
            settings.p99_ms,
            seed + number,
            clock,
        )
        if run is None:
            raise KeyboardInterrupt
        return run

    def tell(run: Run) -> None:
        seen.append(run)
        if told is not None:
            told(run)

    try:
        found = find_capacity(probe, settings, tell)
    except KeyboardInterrupt:
        interrupted = True
        found = partial(seen)
    from searchpipe import __version__
    from searchpipe.backends.machine import cpu_summary, memory_summary

    return CapacityReport(
        format=CAPACITY_FORMAT,
        searchpipe=__version__,
        started=started.isoformat(timespec="seconds"),
        machine={"cpu": cpu_summary(), "memory": memory_summary()},
        target=target.describe(),
        log=log.name,
        run_s=run_s,
        warm_up_s=warm_up_s,
        settings=settings,
        interrupted=interrupted,
        capacity=found,
    )


def one_run(
    entries: Sequence[Entry],
    target: Target,
    rate: float,
    run_s: float,
    warm_up_s: float,
    bounds: LoadSettings,
    goal_ms: float,
    seed: int,
    clock: Clock | None,
) -> Run | None:
    """Load at ``rate`` for a while; None if it was interrupted."""
    drawn = list(entries)
    random.Random(seed).shuffle(drawn)
    recorder = Recorder(warm_up_s=warm_up_s, goal_ms=goal_ms)
    load = Load(target, recorder.observe, bounds, clock)
    load.run_open(Fixed(rate, warm_up_s + run_s, True, seed).arrivals(itertools.cycle(drawn)))
    if load.interrupted:
        return None
    whole = recorder.whole(run_s)
    failed = whole.queries - whole.answered
    return Run(
        rate,
        whole.queries,
        whole.throughput_per_s,
        whole.goodput_per_s,
        whole.latency_ms.p50,
        whole.latency_ms.p99,
        failed / whole.queries if whole.queries else 1.0,
        whole.degraded_share or 0.0,
        recorder.lag().p99,
        cached_share=whole.cached / whole.answered if whole.answered else 0.0,
    )


def partial(runs: Sequence[Run]) -> Capacity:
    """What is known when the search was interrupted: the best run, confirmed by nothing."""
    rates = sorted({run.rate for run in runs})
    steps = [
        Step(rate, all(run.holds for run in runs if run.rate == rate), [r for r in runs if r.rate == rate])
        for rate in rates
    ]
    held = [step for step in steps if step.holds]
    failed = [step.rate for step in steps if not step.holds]
    best = held[-1] if held else None
    p99s = [] if best is None else [run.p99_ms for run in best.runs if run.p99_ms is not None]
    return Capacity(
        best.rate if best else None,
        min(failed) if failed else None,
        len(best.runs) if best else 0,
        p99s,
        steps,
    )
