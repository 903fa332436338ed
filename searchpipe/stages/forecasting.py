"""What stages need of engines that know their own costs and merge their callers' work."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Protocol

from searchpipe._core import TokenStore
from searchpipe.arrays import Float32, Int32
from searchpipe.runtime.forecast import Forecast, Outlook


class ForecastingScorer(Protocol):
    """Scores pairs; :class:`searchpipe.runtime.pair_scorer.ChainPairScorer` is one. Called from many threads.

    A pair scorer that has ``predict`` is taken to be one.
    """

    def predict(self, lengths: Int32) -> Forecast | None:
        """When pairs of these lengths would be scored if they were submitted now; None if it cannot tell."""
        ...

    def score(
        self,
        query_ids: Int32,
        store: TokenStore,
        docs: Int32,
        *,
        deadline: float | None = None,
        priority: int = 0,
        meanwhile: Callable[[], None] | None = None,
    ) -> Float32:
        """Logits float32 ``(n,)``; NaN for pairs not begun by ``deadline``, in ``time.monotonic()``.

        Higher ``priority`` goes first. ``meanwhile`` is called once on the caller's thread when the device
        has the pairs, and does not raise; a scorer without this parameter is not asked to. One that has a
        parameter ``before_end`` as well gets what is to be called, perhaps and at most once, on the caller's
        thread shortly before the logits are there.
        """
        ...


class OutlookScorer(Protocol):
    """A :class:`ForecastingScorer` that measures and predicts in one, and need not predict again.

    A forecasting scorer that has ``outlook`` is taken to be one. Called from many threads.
    """

    def outlook(self, query_ids: Int32, store: TokenStore, docs: Int32) -> Outlook:
        """What a request of these pairs would be if it were submitted now."""
        ...

    def score(
        self,
        query_ids: Int32,
        store: TokenStore,
        docs: Int32,
        *,
        deadline: float | None = None,
        priority: int = 0,
        meanwhile: Callable[[], None] | None = None,
        forecast: Forecast | None = None,
    ) -> Float32:
        """As a forecasting scorer's; ``forecast`` is what it has just predicted for these pairs."""
        ...


class ForecastingEncoder(Protocol):
    """Encodes texts; :class:`searchpipe.runtime.text_encoder.ChainTextEncoder` is one.

    An encoder that has ``predict`` is taken to be one.
    """

    def predict(self, lengths: Int32) -> Forecast | None:
        """When rows of these lengths would be encoded if they were submitted now; None if it cannot tell."""
        ...

    def encode(
        self,
        token_ids: list[Int32],
        *,
        deadline: float | None = None,
        priority: int = 0,
        device_output: int = 0,
        meanwhile: Callable[[], None] | None = None,
    ) -> Float32:
        """Float32 ``(n, dim)``; NaN for texts not begun by ``deadline``, in ``time.monotonic()``.

        Higher ``priority`` goes first.
        device_output: address of device memory that the vectors are written to as well; 0 for none.
        meanwhile: as of a scorer.
        """
        ...


class RowEncoder(Protocol):
    """A :class:`ForecastingEncoder` with a shorter way for one text, which a query has.

    A forecasting encoder that has ``encode_row`` is taken to be one. Called from many threads.
    """

    def predict_row(self, length: int) -> Forecast | None:
        """As ``predict``, of one row of ``length`` tokens."""
        ...

    def encode_row(
        self,
        token_ids: Int32,
        *,
        deadline: float | None = None,
        priority: int = 0,
        device_output: int = 0,
        meanwhile: Callable[[], None] | None = None,
    ) -> Float32:
        """As ``encode``, of one text: float32 ``(dim,)``."""
        ...


def takes_meanwhile(engine: ForecastingScorer | ForecastingEncoder) -> bool:
    """Whether ``engine.score``, or ``engine.encode``, has the parameter ``meanwhile``."""
    asked: Callable[..., object] = engine.encode if hasattr(engine, "encode") else engine.score
    try:
        parameters = inspect.signature(asked).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return False
    return any(one.name == "meanwhile" or one.kind is one.VAR_KEYWORD for one in parameters)


def takes_before_end(scorer: ForecastingScorer) -> bool:
    """Whether ``scorer.score`` names a parameter ``before_end``.

    ``**options`` do not count: one that hands them on may have been written before there was such a thing.
    """
    try:
        return "before_end" in inspect.signature(scorer.score).parameters
    except (TypeError, ValueError):  # not written in Python
        return False


def begin_by(allowance_s: float, forecast: Forecast) -> float:
    """The latest ``time.monotonic()`` at which a request must be begun to end within ``allowance_s``."""
    return time.monotonic() + allowance_s - forecast.run_s
