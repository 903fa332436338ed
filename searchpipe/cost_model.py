"""What a step will cost: learnt online from the steps before it, by stage and shape."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from functools import lru_cache

from searchpipe.deadline import Clock

_SETTLED = 8
"""Steps after which a bucket's mean is trusted to be warm."""


@dataclass(slots=True)
class _Bucket:
    """Running mean and mean absolute deviation of the seconds of like-sized steps."""

    size: float
    mean: float
    deviation: float
    seen: int = 1
    relaxed_at: float = -math.inf


class CostModel:
    """Predicts the seconds of a step from the steps seen so far. Any thread may call anything.

    Sizes (tokens, rows: whatever drives the stage's cost) fall into buckets of
    half an octave. A bucket keeps exponentially weighted estimates that rise
    faster than they fall, because a prediction that is too low makes an answer
    late while one that is too high only gives up a candidate. A size without a
    bucket is read off the nearest one: scaled up in proportion, and taken as it
    stands for smaller sizes, which is the cautious side of a fixed cost. The
    first steps of a process are slow (cold caches, first allocations), so
    until a bucket has seen a few, one that takes less than half replaces what
    was known. After that an observation counts as four times the mean at
    most: one stall is no trend.

    Args:
        rise: weight of a new observation above the mean, 0 < rise <= 1.
        fall: weight of a new observation below the mean.
        margin: deviations added to the mean by :meth:`predict`.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, rise: float = 0.4, fall: float = 0.1, margin: float = 2.0, clock: Clock = time.monotonic
    ) -> None:
        self._rise = rise
        self._fall = fall
        self._margin = margin
        self._clock = clock
        self._lock = threading.Lock()
        self._stages: dict[str, dict[int, _Bucket]] = {}

    def observe(self, stage: str, size: float, seconds: float) -> None:
        """Learn that a step of ``size`` took ``seconds``."""
        if not (size > 0 and 0 <= seconds < math.inf):
            return
        key = _key(size)
        with self._lock:
            buckets = self._stages.get(stage)
            if buckets is None:
                buckets = self._stages[stage] = {}
            bucket = buckets.get(key)
            if bucket is None:
                # One sample says nothing of the spread: assume a quarter.
                buckets[key] = _Bucket(size, seconds, 0.25 * seconds)
                return
            settled = bucket.seen >= _SETTLED
            if not settled and seconds < bucket.mean / 2:
                # What came before was a cold start.
                buckets[key] = _Bucket(size, seconds, 0.25 * seconds, bucket.seen + 1)
                return
            error = (min(seconds, 4 * bucket.mean) if settled else seconds) - bucket.mean
            weight = self._rise if error > 0 else self._fall
            bucket.seen += 1
            bucket.size += weight * (size - bucket.size)
            bucket.mean += weight * error
            bucket.deviation += weight * (abs(error) - bucket.deviation)

    def predict(self, stage: str, size: float) -> float | None:
        """Cautious seconds for a step of ``size``, or None for a stage that has not run yet."""
        with self._lock:
            buckets = self._stages.get(stage)
            if not buckets:
                return None
            bucket = _nearest(buckets, _key(size))
            seconds = bucket.mean + self._margin * bucket.deviation
            return seconds * max(1.0, size / bucket.size)

    def largest_within(self, stage: str, size_of_one: float, limit: int, seconds: float) -> int:
        """How many items of ``size_of_one`` fit into ``seconds``: 0 to ``limit``.

        An unknown stage gets one item, to learn from.
        """
        if limit <= 0 or seconds <= 0:
            return 0
        first = self.predict(stage, size_of_one)
        if first is None:
            return 1
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            cost = self.predict(stage, middle * size_of_one)
            if cost is not None and cost <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def relax(self, stage: str, size: float) -> None:
        """Forget a tenth of what a refused step was thought to cost, at most once a second.

        A step that is refused for its predicted cost teaches nothing, so a slow
        spell could keep a stage out for good; after some seconds it is tried
        again. Not sooner, because such a trial may make its query late.
        """
        with self._lock:
            buckets = self._stages.get(stage)
            if buckets:
                bucket = _nearest(buckets, _key(size))
                now = self._clock()
                if now - bucket.relaxed_at >= 1.0:
                    bucket.relaxed_at = now
                    bucket.mean *= 0.9
                    bucket.deviation *= 0.9

    def snapshot(self) -> dict[str, dict[float, float]]:
        """Stage -> typical size -> mean seconds, for display."""
        with self._lock:
            return {s: {b.size: b.mean for _, b in sorted(bs.items())} for s, bs in self._stages.items()}


def _nearest(buckets: dict[int, _Bucket], key: int) -> _Bucket:
    """The bucket at ``key``, or the closest one (the larger of two)."""
    found = buckets.get(key)
    return found if found is not None else buckets[min(buckets, key=lambda k: (abs(k - key), -k))]


@lru_cache(maxsize=4096)
def _key(size: float) -> int:
    return round(2 * math.log2(max(size, 1e-9)))
