"""What a step will cost: learnt online from the steps before it, by stage and shape."""

from __future__ import annotations

import time

from searchpipe import _core
from searchpipe.deadline import Clock


class CostModel(_core.CostModel):
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

    All of it is C++, because a query asks and tells some twenty times.

    Args:
        rise: weight of a new observation above the mean, 0 < rise <= 1.
        fall: weight of a new observation below the mean.
        margin: deviations added to the mean by :meth:`predict`.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, rise: float = 0.4, fall: float = 0.1, margin: float = 2.0, clock: Clock = time.monotonic
    ) -> None:
        super().__init__(rise=rise, fall=fall, margin=margin)
        self._clock = clock

    def relax(self, stage: str, size: float) -> None:
        """Forget a tenth of what a refused step was thought to cost, at most once a second.

        A step that is refused for its predicted cost teaches nothing, so a slow
        spell could keep a stage out for good; after some seconds it is tried
        again. Not sooner, because such a trial may make its query late.
        """
        self.relax_at(stage, size, self._clock())
