"""The highest rate that holds a P99 target: a search over repeated short runs of load. Pure policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from searchpipe.errors import ConfigError
from searchpipe.replay.figures import schema_of
from searchpipe.settings import Settings

CAPACITY_FORMAT = 1
MIN_RATE = 0.05
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e9)]


class CapacitySettings(Settings, frozen=True):
    """What counts as holding, and how closely it is searched.

    Attributes:
        p99_ms: target, from the intended start, in milliseconds.
        start_rate: first rate tried, in queries a second.
        max_rate: the search ends there.
        tolerance: relative width of the last bracket.
        repeats: runs at a rate at most; odd, so that a majority decides.
        max_failed_share: of queries without an answer, in one run.
        max_degraded_share: of degraded answers, in one run.
    """

    p99_ms: _Positive
    start_rate: _Positive = 10.0
    max_rate: _Positive = 100_000.0
    tolerance: Annotated[float, msgspec.Meta(ge=0.005, le=1.0)] = 0.05
    repeats: Annotated[int, msgspec.Meta(ge=1, le=99)] = 3
    max_failed_share: _Share = 0.001
    max_degraded_share: _Share = 1.0

    def __post_init__(self) -> None:
        """Refuse an even number of repeats, and a start above the end."""
        if self.repeats % 2 == 0:
            raise ConfigError(f"repeats is {self.repeats}; it must be odd.", cure="A majority decides.")
        if self.start_rate > self.max_rate:
            raise ConfigError(f"start_rate is {self.start_rate}, over max_rate {self.max_rate}.")


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One short run of load at a rate; the P99 is null if nothing waited for an answer.

    ``cached_share`` is that of the answers that came out of the target's result cache.
    """

    rate: float
    queries: int
    answered_per_s: float
    good_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    failed_share: float
    degraded_share: float
    start_lag_p99_ms: float | None
    holds: bool = False
    cached_share: float = 0.0


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All runs at one rate, and what their majority says."""

    rate: float
    holds: bool
    runs: list[Run]


class Capacity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was found.

    ``rate`` holds the target in the majority of ``repeats`` runs, ``fails_at`` does not; the
    capacity lies between. ``rate`` is null where even the lowest rate fails, ``fails_at`` where
    the highest holds. ``p99_ms`` are the P99s of the runs at ``rate``.
    """

    rate: float | None
    fails_at: float | None
    holding_runs: int
    p99_ms: list[float]
    steps: list[Step]


Probe = Callable[[float, int], Run]
"""``probe(rate, number)``: one run at ``rate`` queries a second; ``number`` is that of the run, from 0."""

Told = Callable[[Run], None]


def find_capacity(probe: Probe, settings: CapacitySettings, told: Told | None = None) -> Capacity:
    """Double (or halve) the rate until it is bracketed, bisect, and confirm the lower end.

    The lower end is run ``repeats`` times in all; if their majority does not hold it after all,
    the next lower rate is taken. Rates are compared on a logarithmic scale, so bisection takes the
    geometric mean.
    """
    search = _Search(probe, settings, told)
    low, high = search.bracket()
    while low is not None and high is not None and high / low > 1 + settings.tolerance:
        middle = math.sqrt(low * high)
        if search.holds(middle):
            low = middle
        else:
            high = middle
    while low is not None and not search.confirmed(low):
        high = low
        low = low / (1 + settings.tolerance) if low > MIN_RATE else None
    return search.result(low, high)


class _Search:
    """Runs by rate. For one thread."""

    def __init__(self, probe: Probe, settings: CapacitySettings, told: Told | None) -> None:
        self._probe = probe
        self._settings = settings
        self._told = told
        self._number = 0
        self._runs: dict[float, list[Run]] = {}

    def bracket(self) -> tuple[float | None, float | None]:
        """A rate that holds and one that does not; None where there is none within the limits."""
        rate, limit = self._settings.start_rate, self._settings.max_rate
        if self.holds(rate):
            while rate < limit:
                low, rate = rate, min(2 * rate, limit)
                if not self.holds(rate):
                    return low, rate
            return rate, None
        while rate > MIN_RATE:
            high, rate = rate, max(rate / 2, MIN_RATE)
            if self.holds(rate):
                return rate, high
        return None, rate

    def holds(self, rate: float) -> bool:
        """What the majority says, as soon as it is one."""
        needed = self._settings.repeats // 2 + 1
        while max(votes := self._votes(rate)) < needed:
            self._run(rate)
        return votes[0] >= needed

    def confirmed(self, rate: float) -> bool:
        """The same after all the repeats, so that its P99 is known from all of them."""
        while sum(self._votes(rate)) < self._settings.repeats:
            self._run(rate)
        return self.holds(rate)

    def result(self, low: float | None, high: float | None) -> Capacity:
        """Everything that was seen."""
        final = self._runs.get(low, []) if low is not None else []
        return Capacity(
            low,
            high,
            sum(run.holds for run in final),
            [run.p99_ms for run in final if run.p99_ms is not None],
            [Step(rate, self.holds(rate), runs) for rate, runs in sorted(self._runs.items())],
        )

    def _votes(self, rate: float) -> tuple[int, int]:
        runs = self._runs.get(rate, [])
        yes = sum(run.holds for run in runs)
        return yes, len(runs) - yes

    def _run(self, rate: float) -> None:
        run = self._probe(rate, self._number)
        self._number += 1
        run = msgspec.structs.replace(run, holds=holds_target(run, self._settings))
        self._runs.setdefault(rate, []).append(run)
        if self._told is not None:
            self._told(run)


def holds_target(run: Run, settings: CapacitySettings) -> bool:
    """Whether one run keeps the target; one that nobody answered does not."""
    return (
        run.p99_ms is not None
        and run.p99_ms <= settings.p99_ms
        and run.failed_share <= settings.max_failed_share
        and run.degraded_share <= settings.max_degraded_share
    )


class CapacityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search for the capacity of one target."""

    format: int
    searchpipe: str
    started: str
    machine: dict[str, str]
    target: str
    log: str
    run_s: float
    warm_up_s: float
    settings: CapacitySettings
    interrupted: bool
    capacity: Capacity


def capacity_schema() -> dict[str, Any]:
    """JSON schema of :class:`CapacityReport`."""
    return schema_of(CapacityReport, "Report of searchpipe capacity")
