"""One replay from a log to its report."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from searchpipe.errors import ConfigError
from searchpipe.replay.clock import Clock
from searchpipe.replay.figures import REPORT_FORMAT, BrokenFigures, LogFigures, Report
from searchpipe.replay.load import Load, LoadSettings
from searchpipe.replay.reader import LogReader, ReadNotes, ReadSettings
from searchpipe.replay.recorder import Live, Recorder
from searchpipe.replay.schedule import Schedule, cycled
from searchpipe.replay.scorer import ScorerCounts, scorer_counts, scorer_figures
from searchpipe.replay.strata import TrafficStrata, find_strata
from searchpipe.replay.targets import Target

_TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Callers:
    """Closed loop: so many callers, each asking one query after the other. Immutable."""

    count: int
    duration_s: float = math.inf

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 4096:
            raise ConfigError(f"callers is {self.count}; it must be 1 to 4096.")
        if not self.duration_s > 0:
            raise ConfigError(f"duration is {self.duration_s}; it must be above 0 seconds.")

    def describe(self) -> str:
        """One line."""
        return f"{self.count} callers, closed loop"


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """How a log is replayed. Immutable.

    Attributes:
        load: when queries start.
        warm_up_s: queries meant to start before it are asked and not measured, in seconds.
        goal_ms: latency that counts as good; None for each query's budget.
        repeat: begin the log again at its end, until the schedule ends.
        strata: find head, torso and tail in a pass over the log before.
        bounds: of the load.
        read: of the log.
    """

    load: Schedule | Callers
    warm_up_s: float = 0.0
    goal_ms: float | None = None
    repeat: bool = False
    strata: bool = True
    bounds: LoadSettings = field(default_factory=LoadSettings)
    read: ReadSettings = field(default_factory=ReadSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up_s < math.inf:
            raise ConfigError(f"The warm-up is {self.warm_up_s} s; it must be 0 or more.")
        if self.repeat and math.isinf(getattr(self.load, "duration_s", math.inf)):
            raise ConfigError("A log that begins again never ends.", cure="Name a --duration.")


@dataclass(frozen=True, slots=True)
class ReplayState:
    """For a progress line. Immutable; ``share`` of the log's bytes, from 0 to 1."""

    elapsed_s: float
    share: float
    in_flight: int
    live: Live


Tell = Callable[[ReplayState], None]


def replay(
    log: Path,
    target: Target,
    plan: ReplayPlan,
    *,
    tell: Tell | None = None,
    clock: Clock | None = None,
    strata: TrafficStrata | None = None,
) -> Report:
    """Replay a log against a target and report latency and quality.

    Ctrl-C ends the load and gives the report of what was seen until then, with ``interrupted``.

    Args:
        log: see :class:`searchpipe.replay.reader.LogReader`.
        target: not closed.
        plan: how.
        tell: told about once a second, from a thread of its own; must not raise.
        clock: time of the load.
        strata: as found before; None to find them, if the plan wants them.

    Raises:
        LogError: the log cannot be read, holds no search, or too many lines are broken.
    """
    reader = LogReader(log, plan.read)
    if strata is None and plan.strata:
        strata = find_strata(reader)
    recorder = Recorder(warm_up_s=plan.warm_up_s, strata=strata, goal_ms=plan.goal_ms)
    load = Load(target, recorder.observe, plan.bounds, clock)
    started = datetime.now(UTC)
    before = _scorer(target)
    with _Telling(tell, lambda: _state(load, reader, recorder)):
        entries = cycled(reader, plan.repeat)
        if isinstance(plan.load, Callers):
            load.run_closed(entries, plan.load.count, plan.load.duration_s)
        else:
            load.run_open(plan.load.arrivals(entries))
    end = load.elapsed()
    seconds = max(0.0, end - plan.warm_up_s)
    from searchpipe import __version__
    from searchpipe.backends.machine import cpu_summary, memory_summary

    return Report(
        format=REPORT_FORMAT,
        searchpipe=__version__,
        started=started.isoformat(timespec="seconds"),
        machine={"cpu": cpu_summary(), "memory": memory_summary()},
        target=target.describe(),
        snapshots=dict(recorder.snapshots),
        load=plan.load.describe(),
        duration_s=seconds,
        warm_up_s=plan.warm_up_s,
        warm_up_queries=recorder.warm_up_queries,
        interrupted=load.interrupted,
        not_started=load.not_started,
        log=log_figures(log, reader.whole or reader.notes),
        whole=recorder.whole(seconds),
        strata=recorder.strata(seconds),
        stages=recorder.stages(),
        degradations=recorder.degradations(),
        errors=dict(recorder.errors.most_common()),
        start_lag_ms=recorder.lag(),
        curve=recorder.curve(),
        timeline=recorder.timeline(end),
        scorer=scorer_figures(before, _scorer(target)),
    )


def log_figures(path: Path, notes: ReadNotes) -> LogFigures:
    """What was met in a log, for a report."""
    return LogFigures(
        path.name,
        notes.lines,
        notes.entries,
        notes.broken,
        dict(notes.reasons.most_common(20)),
        [BrokenFigures(b.line, b.reason, b.excerpt) for b in notes.first_broken],
        notes.out_of_order,
        notes.beyond_window,
    )


class _Telling:
    """Tells from a thread of its own while the block runs."""

    def __init__(self, tell: Tell | None, state: Callable[[], ReplayState]) -> None:
        self._tell = tell
        self._state = state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay-progress", daemon=True)

    def __enter__(self) -> None:
        if self._tell is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        assert self._tell is not None
        while not self._stop.wait(_TELL_EVERY_S):
            self._tell(self._state())


def _state(load: Load, reader: LogReader, recorder: Recorder) -> ReplayState:
    notes = reader.notes
    share = notes.bytes_read / notes.bytes_total if notes.bytes_total else 0.0
    return ReplayState(load.elapsed(), share, load.in_flight, recorder.live())


def _scorer(target: Target) -> ScorerCounts | None:
    return scorer_counts(getattr(target, "pipeline", None))
