"""The time of threads that may be spent on more than the least service: saved up, and cut at congestion."""

from __future__ import annotations

import math

_USED = 0.8
"""Share of the threads' time that is planned with; arrivals are not evenly spaced (Kingman 1961)."""
_SAVED_S = 0.1
"""Seconds of each thread that can be saved up for a burst."""
_EASED, _EASE_S = 0.5, 10.0
"""What is left of the time to spare at a sign of congestion, and seconds in which all of it comes back."""
_LEAST = 1e-3
_NOTICE_S = 0.05
"""Seconds between two signs: the first one's cure has to take effect."""


class SpareTime:
    """An account of seconds of thread time; whoever calls holds the policy's lock.

    What queries cost says not all: threads share cores and Python's lock, so that doing more for one
    makes others slower. So at a sign of congestion what is earned is halved, and comes back slowly:
    additive increase, multiplicative decrease (Chiu and Jain 1989).

    Args:
        threads: that earn.
        now: the time, in seconds.

    Attributes:
        saved_s: for a burst; negative after one that cost too much.
        share: of what is earned without congestion, above 0 to 1.
    """

    def __init__(self, threads: int, now: float) -> None:
        self._most_s = _SAVED_S * threads
        self._paid_at = now
        self.share, self._noticed_at = 1.0, -math.inf
        self.saved_s = self._most_s

    def earn(self, now: float, threads: int) -> None:
        """Save up what so many threads had until now."""
        passed, self._paid_at = now - self._paid_at, now
        self.share = min(1.0, self.share + passed / _EASE_S)
        earned = passed * _USED * threads * self.share
        # What is saved is soon spent at once, and what was congestion lately may be so again.
        self.saved_s = min(self._most_s * self.share, self.saved_s + earned)

    def spend(self, seconds: float) -> None:
        """Take from what was saved; only so much can be missing."""
        self.saved_s = max(-self._most_s, self.saved_s - seconds)

    def settle(self, seconds: float) -> None:
        """Give back what was planned too much; negative: take what was planned too little."""
        self.saved_s += seconds

    def fair_s(self, threads: int, rate: float) -> float:
        """Seconds for each of ``rate`` queries a second."""
        return _USED * threads * self.share / rate if rate > 0 else math.inf

    def congested(self, now: float) -> None:
        """A sign of congestion was seen."""
        if now - self._noticed_at >= _NOTICE_S:
            self._noticed_at = now
            self.share = max(_LEAST, self.share * _EASED)
            self.saved_s = min(self.saved_s, 0.0)
