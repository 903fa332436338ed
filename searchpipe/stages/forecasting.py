"""What stages need of engines that know their own costs and merge their callers' work."""

from __future__ import annotations

import time
from typing import Protocol

from searchpipe._core import TokenStore
from searchpipe.arrays import Float32, Int32
from searchpipe.runtime.forecast import Forecast


class ForecastingScorer(Protocol):
    """Scores pairs; :class:`searchpipe.runtime.pair_scorer.ChainPairScorer` is one. Called from many threads.

    A pair scorer that has ``predict`` is taken to be one.
    """

    def predict(self, lengths: Int32) -> Forecast | None:
        """When pairs of these lengths would be scored if they were submitted now; None if it cannot tell."""
        ...

    def score(
        self, query_ids: Int32, store: TokenStore, docs: Int32, *, deadline: float | None = None
    ) -> Float32:
        """Logits float32 ``(n,)``; NaN for pairs not begun by ``deadline``, in ``time.monotonic()``."""
        ...


class ForecastingEncoder(Protocol):
    """Encodes texts; :class:`searchpipe.runtime.text_encoder.ChainTextEncoder` is one.

    An encoder that has ``predict`` is taken to be one.
    """

    def predict(self, lengths: Int32) -> Forecast | None:
        """When rows of these lengths would be encoded if they were submitted now; None if it cannot tell."""
        ...

    def encode(
        self, token_ids: list[Int32], *, deadline: float | None = None, device_output: int = 0
    ) -> Float32:
        """Float32 ``(n, dim)``; NaN for texts not begun by ``deadline``, in ``time.monotonic()``.

        device_output: address of device memory that the vectors are written to as well; 0 for none.
        """
        ...


def begin_by(allowance_s: float, forecast: Forecast) -> float:
    """The latest ``time.monotonic()`` at which a request must be begun to end within ``allowance_s``."""
    return time.monotonic() + allowance_s - forecast.run_s
