"""Whether a new version stays within the band of the one before it. Pure policy: no threads, no sleep."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from searchpipe.live.settings import WatchSettings

Outcome = Literal["full", "degraded", "error"]
_MOST = 8192  # samples that are kept; a P99 of them has 80 beyond it


@dataclass(frozen=True, slots=True)
class Band:
    """What a version did in a window: P99 in milliseconds (NaN without an answer), shares from 0 to 1."""

    samples: int
    p99_ms: float
    errors: float
    degraded: float

    @classmethod
    def of(cls, samples: Iterable[tuple[float, float, Outcome]]) -> Band:
        """Of (when, milliseconds, outcome); an error, or NaN, is no latency. P99 is the nearest rank."""
        taken = list(samples)
        times = sorted(ms for _, ms, outcome in taken if outcome != "error" and not math.isnan(ms))
        n = len(taken)
        return cls(
            n,
            times[math.ceil(0.99 * len(times)) - 1] if times else math.nan,
            sum(outcome == "error" for *_, outcome in taken) / n if n else 0.0,
            sum(outcome == "degraded" for *_, outcome in taken) / n if n else 0.0,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a trial: the version is good, or is to be taken back because of ``reason``.

    ``metric`` is ``p99``, ``errors`` or ``degraded``.
    """

    version: int
    good: bool
    metric: str = ""
    reason: str = ""


class Watcher:
    """Gathers what the serving version does and decides about it. Any thread may call anything.

    Args:
        settings: the limits.
        clock: monotonic seconds.
    """

    def __init__(self, settings: WatchSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, float, Outcome]] = deque(maxlen=_MOST)
        self._version = 0
        self._began: float | None = None
        self._band: Band | None = None
        self._strikes = 0
        self._cool_until = -math.inf

    @property
    def on_trial(self) -> bool:
        """Whether a version's trial is going on."""
        return self._began is not None

    @property
    def band(self) -> Band | None:
        """What the trial is judged by; None where the version before had too few queries."""
        return self._band

    @property
    def cooling_s(self) -> float:
        """Seconds until something new may be taken on by itself; 0 if it may now."""
        return max(0.0, self._cool_until - self._clock())

    def record(self, version: int, ms: float, outcome: Outcome) -> None:
        """A query ended; what another version than the serving one did is left out."""
        with self._lock:
            if version == self._version:
                self._samples.append((self._clock(), ms, outcome))

    def now(self) -> Band:
        """What the serving version does."""
        with self._lock:
            return Band.of(self._recent())

    def serve(self, version: int) -> None:
        """A version serves without a trial: the first one, or one that took over again."""
        with self._lock:
            self._change(version)
            self._began, self._band, self._strikes = None, None, 0

    def begin(self, version: int) -> bool:
        """A new version serves, on trial.

        Returns:
            Whether the one before it was good: not on trial, or within its band for as long as it served.
            If not, the band stays that of the last good one.
        """
        with self._lock:
            before = Band.of(self._recent())
            enough = before.samples >= self._settings.min_samples
            good = self._began is None or (enough and not self._strikes and not self._breach(before)[0])
            if good:
                self._band = before if enough else None
            self._change(version)
            self._began = self._clock() if self._settings.seconds > 0 else None
            self._strikes = 0
            return good

    def cool_down(self) -> None:
        """A rollback happened."""
        with self._lock:
            self._cool_until = self._clock() + self._settings.cool_down_s

    def decide(self) -> Verdict | None:
        """Look once; a verdict ends the trial and is given once. None while there is nothing to say."""
        with self._lock:
            if self._began is None:
                return None
            band = Band.of(self._recent())
            if band.samples >= self._settings.min_samples:
                metric, reason = self._breach(band)
                self._strikes = self._strikes + 1 if metric else 0
                if self._strikes >= self._settings.strikes:
                    self._began = None
                    return Verdict(self._version, False, metric, reason)
            # A trial that ends in the middle of a breach goes on until that is decided.
            if not self._strikes and self._clock() - self._began >= self._settings.seconds:
                self._began = None
                return Verdict(self._version, True)
            return None

    def _change(self, version: int) -> None:
        self._version = version
        self._samples.clear()

    def _recent(self) -> list[tuple[float, float, Outcome]]:
        since = self._clock() - self._settings.window_s
        least = self._settings.min_samples
        while len(self._samples) > least and self._samples[0][0] < since:
            self._samples.popleft()
        return list(self._samples)

    def _breach(self, found: Band) -> tuple[str, str]:
        limits, before = self._settings, self._band
        errors = (before.errors if before else 0.0) + limits.max_errors
        if found.errors > errors:
            return "errors", f"{found.errors:.1%} of the queries failed, over {errors:.1%}"
        if before is None:
            return "", ""
        degraded = before.degraded + limits.max_degraded
        if found.degraded > degraded:
            return "degraded", f"{found.degraded:.1%} of the answers were degraded, over {degraded:.1%}"
        p99 = before.p99_ms * limits.p99_ratio + limits.p99_slack_ms
        if found.p99_ms > p99:
            return "p99", f"P99 was {found.p99_ms:.1f} ms, over {p99:.1f} ms"
        return "", ""
