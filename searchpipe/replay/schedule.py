"""When queries are meant to start: pure arithmetic over the times of a log or over chance."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from searchpipe.errors import ConfigError
from searchpipe.replay.entry import Entry


@dataclass(frozen=True, slots=True)
class Arrival:
    """A query and when it is meant to start, in seconds from the start of the replay. Immutable."""

    at: float
    entry: Entry


class Schedule(Protocol):
    """Gives each entry its intended start. Immutable; ``arrivals`` may be called again."""

    def arrivals(self, entries: Iterable[Entry]) -> Iterator[Arrival]:
        """Arrivals, ``at`` never falling, 0 or more."""
        ...

    def describe(self) -> str:
        """One line."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """At the times of the log, ``speed`` times as fast.

    Attributes:
        speed: 2 halves every gap.
        max_gap_s: longer gaps of the log, in its own seconds, are shortened to it.
        duration_s: arrivals from then on are left out, in seconds of the replay.
    """

    speed: float = 1.0
    max_gap_s: float = math.inf
    duration_s: float = math.inf

    def __post_init__(self) -> None:
        _check("speed", self.speed)
        _check("max_gap_s", self.max_gap_s, or_infinite=True)
        _check("duration_s", self.duration_s, or_infinite=True)

    def arrivals(self, entries: Iterable[Entry]) -> Iterator[Arrival]:
        """As :class:`Schedule`; entries must be in the order of time."""
        at, before = 0.0, None
        for entry in entries:
            if before is not None:
                at += min(max(0.0, entry.ts - before), self.max_gap_s) / self.speed
            before = entry.ts
            if at >= self.duration_s:
                return
            yield Arrival(at, entry)

    def describe(self) -> str:
        """One line."""
        return f"recorded times at {self.speed:g}x"


@dataclass(frozen=True, slots=True)
class Fixed:
    """At ``rate`` queries a second: Poisson arrivals, or evenly spaced ones.

    Attributes:
        rate: queries a second.
        duration_s: end, in seconds; infinite for the end of the entries.
        poisson: exponential gaps (independent callers); else equal ones.
        seed: of the gaps.
    """

    rate: float
    duration_s: float = math.inf
    poisson: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _check("rate", self.rate)
        _check("duration_s", self.duration_s, or_infinite=True)

    def arrivals(self, entries: Iterable[Entry]) -> Iterator[Arrival]:
        """As :class:`Schedule`."""
        dice = random.Random(self.seed)
        at = 0.0
        for entry in entries:
            at += dice.expovariate(self.rate) if self.poisson else 1.0 / self.rate
            if at >= self.duration_s:
                return
            yield Arrival(at, entry)

    def describe(self) -> str:
        """One line."""
        return f"{self.rate:g} queries/s, {'Poisson' if self.poisson else 'evenly spaced'}"


@dataclass(frozen=True, slots=True)
class Ramp:
    """A rate that goes evenly from ``first`` to ``last`` within ``duration_s``: Poisson arrivals.

    The n-th arrival of a Poisson process of the rate r(t) is where the integral of r reaches the
    n-th arrival of one of rate 1 (Cinlar 1975, time-rescaling).

    Attributes:
        first, last: queries a second, 0 or more, not both 0.
        duration_s: seconds.
        seed: of the arrivals.
    """

    first: float
    last: float
    duration_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"The ramp's {name} rate is {value}; it must be 0 or more queries/s.")
        if self.first == self.last == 0:
            raise ConfigError("The ramp goes from 0 to 0 queries/s.", cure="Name a rate above 0.")
        _check("duration_s", self.duration_s)

    def rate_at(self, at: float) -> float:
        """Queries a second at ``at`` seconds."""
        return self.first + (self.last - self.first) * at / self.duration_s

    def arrivals(self, entries: Iterable[Entry]) -> Iterator[Arrival]:
        """As :class:`Schedule`."""
        dice = random.Random(self.seed)
        slope = (self.last - self.first) / self.duration_s
        area = 0.0
        for entry in entries:
            area += dice.expovariate(1.0)
            # first t + slope t^2 / 2 = area, in the form that does not cancel for small slopes.
            root = self.first * self.first + 2.0 * slope * area
            if root < 0:
                return  # a falling ramp has no more area
            below = self.first + math.sqrt(root)
            at = 2.0 * area / below if below > 0 else math.inf
            if at >= self.duration_s:
                return
            yield Arrival(at, entry)

    def describe(self) -> str:
        """One line."""
        return f"{self.first:g} to {self.last:g} queries/s within {self.duration_s:g} s, Poisson"


def cycled(entries: Iterable[Entry], again: bool) -> Iterator[Entry]:
    """The entries once, or over and over if ``again``; they must be an iterable that begins anew."""
    while True:
        found = False
        for entry in entries:
            found = True
            yield entry
        if not (again and found):
            return


def _check(name: str, value: float, *, or_infinite: bool = False) -> None:
    if not value > 0 or (math.isinf(value) and not or_infinite):
        raise ConfigError(f"{name} is {value}; it must be above 0.")
