"""How long a request would take on an engine whose costs were measured."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import NamedTuple

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Float32, Int32

_HANDOVER_S = 2e-4
"""Around the batches of a request: threads waking, packing its first batch, copies of its last."""


class Forecast(NamedTuple):
    """Seconds until a request would be begun and, from then, until its last row is there."""

    wait_s: float
    run_s: float


class Outlook(NamedTuple):
    """What a request of pairs would be.

    Attributes:
        lengths: tokens of each pair's row, int32 ``(n,)``.
        tokens: of all rows.
        forecast: if it were made now; None if nobody can tell.
    """

    lengths: Int32
    tokens: int
    forecast: Forecast | None


class Forecaster:
    """Predicts requests of one engine, and knows what it has been given and not finished.

    The work is cut into batches as the scorer cuts it (:class:`searchpipe._core.RequestCost`), each of
    which costs what its bucket was measured to cost when it was prepared. What others have
    asked for counts in full, although a part of it may be done already and merged batches
    cost less than single ones: a forecast that is too long gives up a candidate, one that is
    too short makes an answer late. Any thread may call anything.

    Args:
        executor: prepared, with measured costs in milliseconds.

    Attributes:
        given_s: seconds of what was given to the engine and is not finished.
        least_s: what :meth:`expected_s` is at least.
    """

    def __init__(self, executor: _core.Executor) -> None:
        self._cost = _core.RequestCost(executor)
        buckets, longest = executor.buckets, executor.longest_row
        seconds = {
            bucket: (fixed + per_token * bucket[0] * bucket[1]) / 1e3
            for bucket, (fixed, per_token) in zip(buckets, executor.costs, strict=True)
        }
        # Buckets of packed rows tell the tokens of all rows together.
        # A row of unknown length is taken to be as long as they come.
        rows_of = {b: b[1] // longest if executor.packed else b[0] for b in buckets}
        self._row_s = min(seconds[b] / rows for b, rows in rows_of.items() if rows and b[1] >= longest)
        self.least_s = max(seconds.values()) + _HANDOVER_S
        rows_alone = (np.array([length], np.int32) for length in range(longest + 1))
        self._alone_s = [self._cost.seconds(row) + _HANDOVER_S for row in rows_alone]
        self._longest = longest
        self._lock = threading.Lock()
        self.given_s = 0.0

    def predict(self, lengths: Int32) -> Forecast:
        """Forecast a request of rows with these ``lengths`` in tokens, int32 ``(n,)``, made now."""
        return Forecast(self.given_s, self._cost.seconds(lengths) + _HANDOVER_S)

    def predict_row(self, length: int) -> Forecast:
        """As :meth:`predict`, of a request of one row of ``length`` tokens, which must not be negative."""
        return Forecast(self.given_s, self._alone_s[length if length < self._longest else self._longest])

    def outlook(
        self, packer: _core.PairPacker, store: _core.TokenStore, query_ids: Int32, docs: Int32
    ) -> Outlook:
        """Measure and forecast a request of the pairs that ``packer`` would pack.

        Raises:
            IndexError: a document outside the store.
        """
        lengths, tokens, seconds = self._cost.of_pairs(packer, store, query_ids, docs)
        return Outlook(lengths, tokens, Forecast(self.given_s, seconds + _HANDOVER_S))

    def expected_s(self, rows: int, given_s: float | None = None) -> float:
        """Cautious seconds for a request of ``rows``, behind what was given before and one batch.

        Made now or, with ``given_s`` as it was then, at another time.
        """
        return max(self.given_s if given_s is None else given_s, rows * self._row_s) + self.least_s

    def begin(
        self,
        plan: _core.HeadPlan,
        docs: Int32,
        scores: Float32,
        scorer: _core.Scorer,
        allowance_s: float,
        margin: float,
    ) -> _core.Flight | None:
        """See ``_core.HeadPlan.begin``: begin the pairs if ``margin`` times their forecast fits."""
        return plan.begin(docs, scores, scorer, self._cost, allowance_s, self.given_s, _HANDOVER_S, margin)

    def rehearse(self, plan: _core.HeadPlan, docs: Int32, scores: Float32, scorer: _core.Scorer) -> None:
        """See ``_core.HeadPlan.rehearse``."""
        plan.rehearse(docs, scores, scorer, self._cost)

    def running(
        self,
        rows: int,
        lengths: Int32 | None = None,
        *,
        forecast: Forecast | None = None,
        seconds: float | None = None,
    ) -> Running:
        """Count ``rows`` as given to the engine while the body of a ``with`` waits for them.

        With their ``lengths`` in tokens, int32 ``(rows,)``, or what was forecast for them, as what their
        batches cost; or with the ``seconds`` that those do.
        """
        if forecast is not None:
            seconds = max(0.0, forecast.run_s - _HANDOVER_S)
        elif seconds is None:
            seconds = rows * self._row_s if lengths is None else self._cost.seconds(lengths)
        return _core.made(Running, self, seconds, False)


class Running:
    # The order in which `made` fills them.
    __slots__ = __match_args__ = ("_forecaster", "_seconds", "_counted")
    _forecaster: Forecaster
    _seconds: float
    _counted: bool

    def __enter__(self) -> None:
        forecaster = self._forecaster
        with forecaster._lock:
            forecaster.given_s += self._seconds
            self._counted = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        forecaster = self._forecaster
        with forecaster._lock:
            left = forecaster.given_s - self._seconds
            forecaster.given_s = left if left > 0.0 else 0.0  # never below zero by rounding
            self._counted = False

    def __del__(self) -> None:
        if self._counted:  # what a signal's handler raised kept `__exit__` from it
            self.__exit__(None, None, None)
