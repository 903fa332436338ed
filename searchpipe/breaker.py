"""A circuit breaker: stops asking what keeps failing or is too slow, and tries it again after a while."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Annotated, Literal

import msgspec

from searchpipe.deadline import Clock
from searchpipe.errors import ConfigError
from searchpipe.settings import Settings

BreakerState = Literal["closed", "open", "half_open"]

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0.0)]


class BreakerPolicy(Settings, frozen=True):
    """When a breaker opens, and how it closes again. Also a table of settings.

    Attributes:
        failures: so many in a row open it.
        error_share: of the last ``window`` outcomes; so many failures open it.
        slow_share: the same of outcomes that were too slow.
        window: outcomes that the shares are taken of at most.
        window_s: seconds after which an outcome is forgotten.
        min_outcomes: below so many the shares say nothing.
        cool_down_s: seconds that it stays open at first; doubled each time that a probe fails or that it
            opens again soon after it closed.
        max_cool_down_s: seconds that it stays open at most.
        probes: successes in a row, one at a time, that close it again.
    """

    failures: _Count = 3
    error_share: _Share = 0.5
    slow_share: _Share = 0.8
    window: _Count = 100
    window_s: _Seconds = 10.0
    min_outcomes: _Count = 20
    cool_down_s: _Seconds = 5.0
    max_cool_down_s: _Seconds = 300.0
    probes: _Count = 3

    def __post_init__(self) -> None:
        counts = (self.failures, self.window, self.min_outcomes, self.probes)
        seconds = (self.window_s, self.cool_down_s, self.max_cool_down_s)
        shares = (self.error_share, self.slow_share)
        if min(counts) < 1 or not min(seconds) > 0 or not all(0 < share <= 1 for share in shares):
            raise ConfigError(f"This breaker is not possible: {self}.", cure="Give positive numbers.")
        if self.max_cool_down_s < self.cool_down_s:
            raise ConfigError(
                f"max_cool_down_s is {self.max_cool_down_s}, below cool_down_s, which is {self.cool_down_s}."
            )


class CircuitBreaker:
    """Closed while all is well; open while nothing is asked; half open while one caller at a time tries.

    Ask :meth:`admit` before each use, and tell how it ended with the pass that it gave: what began
    before the breaker changed its state says nothing of the state after it, and is not counted.

    Any thread may call anything.

    Args:
        policy: when it opens and closes.
        clock: monotonic seconds.
    """

    def __init__(self, policy: BreakerPolicy | None = None, *, clock: Clock = time.monotonic) -> None:
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._lock = threading.Lock()
        self._state: BreakerState = "closed"
        self._pass = 1  # of the present state
        self._outcomes: deque[tuple[float, bool, bool]] = deque()  # time, failed, slow
        self._failed = self._slow = 0  # in `_outcomes`
        self._in_a_row = 0  # failures while closed, successes while half open
        self._changed = clock()
        self._cool_down_s = self._policy.cool_down_s
        self._probe_since = -math.inf  # of the probe that runs; -inf for none
        self._reason = ""
        self._trips = 0

    @property
    def state(self) -> BreakerState:
        """Where it stands; ``open`` also when the next :meth:`admit` would begin to probe."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it opened last, or the last failure; empty if nothing failed since it closed."""
        return self._reason

    @property
    def trips(self) -> int:
        """How many times it has opened."""
        return self._trips

    @property
    def spotless(self) -> bool:
        """Closed, with nothing failed or slow among what is remembered: one more success changes nothing.

        Whoever cannot spare a microsecond need not tell of that; shares are then of what came since.
        """
        return self._state == "closed" and not (self._failed or self._slow or self._in_a_row)

    def due_s(self) -> float:
        """Seconds until it may be probed; 0 unless it is open."""
        with self._lock:
            if self._state != "open":
                return 0.0
            return max(0.0, self._changed + self._cool_down_s - self._clock())

    def admit(self) -> int:
        """A pass to use what is behind it, or 0: leave it alone.

        An open breaker becomes half open here once its cool-down is over. A probe that never tells how
        it ended is given up after another cool-down.
        """
        state = self._state  # without the lock: most calls end here
        if state == "closed":
            return self._pass
        with self._lock:
            now = self._clock()
            if self._state == "open" and now - self._changed >= self._cool_down_s:
                self._enter("half_open", now)
            if self._state == "closed":
                return self._pass
            if self._state == "open" or now - self._probe_since < self._cool_down_s:
                return 0
            self._probe_since = now
            return self._pass

    def succeeded(self, given: int, *, slow: bool = False, now: float | None = None) -> None:
        """It worked; ``slow``: but took too long, which a probe may not.

        ``now``: on the breaker's clock, if the caller has just looked at it.
        """
        with self._lock:
            if given != self._pass:
                return
            if self._state == "half_open":
                self._probe_since = -math.inf
                if slow:
                    self._trip("too slow when it was tried again")
                    return
                self._in_a_row += 1
                if self._in_a_row >= self._policy.probes:
                    self._enter("closed", self._clock())
                    self._reason = ""
                return
            self._in_a_row = 0
            if slow or self._failed or self._slow:
                self._count(failed=False, slow=slow)
                return
            # Most often: nothing but successes is remembered, of which none can open it. What
            # is too old is forgotten when the shares are taken.
            self._outcomes.append((self._clock() if now is None else now, False, False))
            if len(self._outcomes) > self._policy.window:
                self._outcomes.popleft()

    def failed(self, given: int, reason: str) -> None:
        """It did not work, because of ``reason``."""
        with self._lock:
            if given != self._pass:
                return
            self._reason = reason
            if self._state == "half_open":
                self._trip(reason)
                return
            self._in_a_row += 1
            if self._in_a_row >= self._policy.failures:
                self._trip(reason)
            else:
                self._count(failed=True, slow=False)

    def abandoned(self, given: int) -> None:
        """It ended without saying anything of what is behind: cancelled, or refused for a full queue."""
        with self._lock:
            if given == self._pass and self._state == "half_open":
                self._probe_since = -math.inf

    def trip(self, reason: str) -> None:
        """Open it now, for a reason that the caller knows."""
        with self._lock:
            self._trip(reason)

    def _count(self, *, failed: bool, slow: bool) -> None:
        """Add an outcome to the window, and open if its shares say so."""
        policy, now, outcomes = self._policy, self._clock(), self._outcomes
        # Counts before the call that goes with them: see CONTRIBUTING.md, "Interrupts".
        self._failed += failed
        self._slow += slow
        outcomes.append((now, failed, slow))
        while len(outcomes) > policy.window or now - outcomes[0][0] > policy.window_s:
            _, was_failed, was_slow = outcomes[0]
            self._failed -= was_failed
            self._slow -= was_slow
            outcomes.popleft()
        total = len(outcomes)
        if total < policy.min_outcomes:
            return
        if self._failed >= policy.error_share * total:
            self._trip(f"{self._failed} of {total} failed, last: {self._reason}")
        elif self._slow >= policy.slow_share * total:
            self._trip(f"{self._slow} of {total} were too slow")

    def _trip(self, reason: str) -> None:
        now = self._clock()
        soon = self._trips > 0 and self._state == "closed" and now - self._changed < 2 * self._cool_down_s
        if self._state != "closed" or soon:
            self._cool_down_s = min(2 * self._cool_down_s, self._policy.max_cool_down_s)
        else:
            self._cool_down_s = self._policy.cool_down_s
        self._trips += 1
        self._reason = reason
        self._enter("open", now)

    def _enter(self, state: BreakerState, now: float) -> None:
        self._state = state
        self._pass += 1
        self._changed = now
        self._in_a_row = 0
        self._probe_since = -math.inf
        self._failed = self._slow = 0
        self._outcomes.clear()
