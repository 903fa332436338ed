"""When waiting lookups are searched, and which of them together: pure decisions with an injected clock."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from searchpipe.errors import ConfigError


class Waiting(Protocol):
    """What the policy knows of a lookup that waits; times in seconds of one monotonic clock."""

    @property
    def arrival(self) -> float:
        """When it came."""
        ...

    @property
    def deadline(self) -> float:
        """When its caller stops waiting; ``inf`` for never."""
        ...

    @property
    def group(self) -> Hashable:
        """Lookups of one group may be searched together."""
        ...

    @property
    def departed(self) -> bool:
        """Whether its caller has left."""
        ...


W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Cut(Generic[W]):
    """What to do now.

    Attributes:
        dropped: lookups that nobody waits for any more, or whose time is up.
        batch: lookups to search now, in order of arrival; empty if it is better to wait.
        wait_s: seconds until the next decision if nothing new arrives: 0 with a batch,
            ``inf`` with nothing to do.
    """

    dropped: list[W]
    batch: list[W]
    wait_s: float


@dataclass(frozen=True, slots=True)
class CoalescePolicy:
    """First come, first served, with those of the same group that wait behind.

    A lookup that finds the index idle is searched at once, and what arrives
    meanwhile makes the next batch, so a lone caller never waits. A ``max_delay_s``
    above 0 lets the first one wait for company, but never so long that a
    deadline of its batch would pass.

    Attributes:
        max_batch: lookups in one search.
        max_delay_s: seconds that a lookup may wait for company while the index is idle.
        max_waiting: lookups that may wait; more are refused.

    Raises:
        ConfigError: a number that is not possible.
    """

    max_batch: int = 64
    max_delay_s: float = 0.0
    max_waiting: int = 1024

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_waiting < 1:
            raise ConfigError(
                f"max_batch is {self.max_batch} and max_waiting {self.max_waiting}; both must be 1 or more."
            )
        if not 0.0 <= self.max_delay_s < 1.0:
            raise ConfigError(f"max_delay_s is {self.max_delay_s}; it must be from 0 to below 1 second.")

    def admits(self, waiting: int) -> bool:
        """Whether one more may wait where ``waiting`` already do."""
        return waiting < self.max_waiting

    def cut(self, waiting: Sequence[W], now: float, cost_s: float = 0.0) -> Cut[W]:
        """Decide.

        Args:
            waiting: in order of arrival.
            now: of the same clock as their times.
            cost_s: what a search takes, so that a wait ends that much before the earliest deadline.
        """
        dropped = [one for one in waiting if one.departed or one.deadline <= now]
        live = [one for one in waiting if not (one.departed or one.deadline <= now)]
        if not live:
            return Cut(dropped, [], float("inf"))
        first = live[0]
        batch = [one for one in live if one.group == first.group][: self.max_batch]
        if len(batch) == self.max_batch or self.max_delay_s == 0.0:
            return Cut(dropped, batch, 0.0)
        start = min(first.arrival + self.max_delay_s, min(one.deadline for one in batch) - cost_s)
        if start <= now:
            return Cut(dropped, batch, 0.0)
        # Rounding must not make a wait longer than the longest one.
        return Cut(dropped, [], min(start - now, self.max_delay_s))
