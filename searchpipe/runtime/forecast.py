"""How long a request would take on an engine whose costs were measured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from searchpipe.arrays import Int32

if TYPE_CHECKING:
    from searchpipe import _core

_HANDOVER_S = 2e-4
"""Around the batches of a request: threads waking, packing its first batch, copies of its last."""


class Forecast(NamedTuple):
    """Seconds until a request would be begun and, from then, until its last row is there."""

    wait_s: float
    run_s: float


class Forecaster:
    """Predicts requests of one engine, and knows what it has been given and not finished.

    The work is cut into batches as the scorer cuts it (:func:`searchpipe._core.cut_into_batches`), each of
    which costs what its bucket was measured to cost when it was prepared. What others have
    asked for counts in full, although a part of it may be done already and merged batches
    cost less than single ones: a forecast that is too long gives up a candidate, one that is
    too short makes an answer late. Any thread may call anything.

    Args:
        executor: prepared, with measured costs in milliseconds.
    """

    def __init__(self, executor: _core.Executor) -> None:
        self._buckets = executor.buckets
        self._costs = executor.costs
        # Buckets of packed rows tell the tokens of all rows together.
        packed, self._longest = executor.packed, executor.longest_row
        self._longest_packed = self._longest if packed else 0
        self._seconds = {
            bucket: (fixed + per_token * bucket[0] * bucket[1]) / 1e3
            for bucket, (fixed, per_token) in zip(self._buckets, self._costs, strict=True)
        }
        # A row of unknown length is taken to be as long as they come.
        rows_of = {b: b[1] // self._longest if packed else b[0] for b in self._buckets}
        self._row_s = min(
            self._seconds[b] / rows for b, rows in rows_of.items() if rows and b[1] >= self._longest
        )
        self._lock = threading.Lock()
        self._given_s = 0.0

    def predict(self, lengths: Int32) -> Forecast:
        """Forecast a request of rows with these ``lengths`` in tokens, int32 ``(n,)``, made now."""
        from searchpipe import _core

        clipped = np.minimum(lengths, self._longest)
        ordered: list[int] = np.sort(clipped)[::-1].tolist()
        batches = _core.cut_into_batches(
            ordered, self._buckets, self._costs, longest_row=self._longest_packed
        )
        run_s = sum(self._seconds[rows, tokens] for _, _, rows, tokens in batches)
        return Forecast(self._given_s, run_s + _HANDOVER_S)

    def expected_s(self, rows: int) -> float:
        """Cautious seconds for a request of ``rows`` made now, behind what was given before and one batch."""
        return max(self._given_s, rows * self._row_s) + max(self._seconds.values()) + _HANDOVER_S

    @contextmanager
    def running(self, rows: int) -> Iterator[None]:
        """Count ``rows`` as given to the engine while the body waits for them."""
        seconds = rows * self._row_s
        with self._lock:
            self._given_s += seconds
        try:
            yield
        finally:
            with self._lock:
                # Never below zero by rounding.
                self._given_s = max(0.0, self._given_s - seconds)
