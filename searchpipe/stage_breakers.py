"""Circuit breakers of what a pipeline can do without: what keeps failing or is too slow is left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchpipe.breaker import BreakerPolicy, BreakerState, CircuitBreaker
from searchpipe.deadline import Clock, QueryCancelled
from searchpipe.errors import EngineFailedError, EngineUnavailableError, OverloadedError

if TYPE_CHECKING:
    from searchpipe.config import Config
    from searchpipe.page import Degradation

_SAY_NOTHING = (QueryCancelled, EngineFailedError, EngineUnavailableError, OverloadedError)
"""The caller has left, the queue is full, or it is the business of a chain of engines and its breakers."""

_MOSTLY = 0.5
"""Of a stage's scores: so many that are no numbers are a failure."""


class StageBreakerSettings(BreakerPolicy, frozen=True):
    """``[breaker]``: when a stage or a recall source that fails, or is too slow, is left out for a while.

    As :class:`searchpipe.breaker.BreakerPolicy`, with defaults for outcomes that come with every query.

    Attributes:
        enabled: false: every query tries everything.
    """

    failures: int = 5
    cool_down_s: float = 1.0
    max_cool_down_s: float = 30.0
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class BreakerReport:
    """Where one breaker stands.

    Attributes:
        name: of the stage, or ``recall.`` and the name of a source.
        state: ``closed``, ``open`` or ``half_open``.
        reason: why it opened last, or the last failure; empty if nothing failed since it closed.
        trips: how many times it has opened.
        due_s: seconds until it is tried again; 0 unless it is open.
    """

    name: str
    state: BreakerState
    reason: str
    trips: int
    due_s: float


class StageBreaker:
    """The breaker of one stage or recall source. Any thread may call anything.

    Ask :meth:`admit` before it runs, and tell how it ended by :meth:`returned` or :meth:`raised`.

    Args:
        breaker: opens and closes.
        limit_s: seconds that are never too slow, however little a query allowed: callers with tiny
            budgets must not take a stage away from everybody.
    """

    __slots__ = ("admit", "breaker", "limit_s")

    admit: Callable[[], int]
    """A pass, or 0: leave it out."""

    def __init__(self, breaker: CircuitBreaker, limit_s: float) -> None:
        self.breaker = breaker
        self.limit_s = limit_s
        self.admit = breaker.admit

    @property
    def reason(self) -> str:
        """Why it opened last."""
        return self.breaker.reason

    def returned(
        self, given: int, seconds: float, allowed_s: float, degradations: Sequence[Degradation]
    ) -> None:
        """It ran; need not be told of a success while the breaker is ``spotless``.

        Args:
            given: the pass.
            seconds: that it took.
            allowed_s: seconds that it was allowed; ``inf`` for no limit.
            degradations: what it gave up itself.
        """
        slow = seconds > allowed_s and seconds > self.limit_s
        for one in degradations:
            if one.reason == "bad_scores" and one.amount >= _MOSTLY:
                self.breaker.failed(given, f"{one.given_up}: not finite numbers")
                return
            if one.reason in ("busy", "deadline") and one.amount >= 1.0:
                self.breaker.abandoned(given)  # it did not try
                return
        self.breaker.succeeded(given, slow=slow)

    def raised(self, given: int, error: BaseException) -> None:
        """It raised ``error``."""
        if isinstance(error, _SAY_NOTHING) or not isinstance(error, Exception):
            self.breaker.abandoned(given)
        else:
            self.breaker.failed(given, f"{type(error).__name__}: {error}")


class StageBreakers:
    """The breakers of one pipeline, by name. Any thread may call anything.

    Args:
        settings: when they open and close.
        shares: stage -> share of the budget; together with ``budget_s`` what is never too slow.
        budget_s: the default budget of a query, in seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: StageBreakerSettings | None = None,
        *,
        shares: Mapping[str, float] | None = None,
        budget_s: float = 0.05,
        clock: Clock = time.monotonic,
    ) -> None:
        self.settings = settings or StageBreakerSettings()
        self._shares = dict(shares or {})
        self._rest = max(0.0, 1.0 - sum(self._shares.values()))
        self._budget_s = budget_s
        self._clock = clock
        self._all: dict[str, StageBreaker] = {}
        self._sources: dict[str, StageBreaker] = {}  # by the source's own name

    @classmethod
    def configured(cls, config: Config, *, clock: Clock = time.monotonic) -> StageBreakers:
        """As the tables ``[breaker]`` and ``[budget]`` say."""
        budget = config.budget
        return cls(config.breaker, shares=budget.shares, budget_s=budget.default_ms / 1e3, clock=clock)

    def of(self, name: str) -> StageBreaker | None:
        """The breaker of a stage, or of a recall source as ``recall.NAME``; None if they are switched off."""
        found = self._all.get(name)
        if found is None and self.settings.enabled:
            share = self._shares.get(name.partition(".")[0], self._rest)
            made = StageBreaker(CircuitBreaker(self.settings, clock=self._clock), share * self._budget_s)
            found = self._all.setdefault(name, made)
        return found

    def of_source(self, name: str) -> StageBreaker | None:
        """The breaker of a recall source; None if they are switched off."""
        found = self._sources.get(name)
        if found is None:
            found = self.of(f"recall.{name}")
            if found is not None:
                self._sources[name] = found
        return found

    def reports(self) -> list[BreakerReport]:
        """Where each stands that there has been use for."""
        return [
            BreakerReport(name, one.breaker.state, one.reason, one.breaker.trips, one.breaker.due_s())
            for name, one in sorted(self._all.items())
        ]

    def lines(self) -> list[str]:
        """The settings, and what is left out now, one a line."""
        policy = self.settings
        if not policy.enabled:
            return ["off"]
        lines = [
            f"what fails {policy.failures} times in a row, or {policy.error_share:.0%} of the last "
            f"{policy.window} times, or is too slow {policy.slow_share:.0%} of them, is left out for "
            f"{policy.cool_down_s:g} s at first, and returns after {policy.probes} successes"
        ]
        for one in self.reports():
            if one.state != "closed":
                when = f"tried again in {one.due_s:.1f} s" if one.due_s else "being tried again"
                lines.append(f"{one.name} is left out, {when}: {one.reason}")
        return lines
