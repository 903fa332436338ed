"""When the GPU's index fails, the CPU's answers, and why is on record."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.catalog.optional import require
from searchpipe.errors import ClosedError, ConfigError, EngineError, OverloadedError, RecallTimeoutError
from searchpipe.recall.ahead import Begun
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.lookup import host_copy, on_device


class Breaker:
    """Stops asking what keeps failing, and tries again after a while. Any thread may call anything.

    Closed at first. After ``failures`` in a row it opens for ``cool_down_s``; then
    one caller is let through, whose success closes it and whose failure opens it again.

    Raises:
        ConfigError: numbers that are not possible.
    """

    def __init__(
        self,
        failures: int = 3,
        cool_down_s: float = 30.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1 or not cool_down_s > 0:
            raise ConfigError(f"A breaker of {failures} failures and {cool_down_s} s is not possible.")
        self._limit = failures
        self._cool_down_s = cool_down_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened = -math.inf
        self._reason = ""

    @property
    def reason(self) -> str:
        """The last failure, if nothing has succeeded since; else empty."""
        return self._reason

    def allows(self) -> bool:
        """Whether to ask now."""
        if not self._failures:  # unlocked first: this is on the path of every query
            return True
        with self._lock:
            if self._failures < self._limit:
                return True
            now = self._clock()
            if now - self._opened < self._cool_down_s:
                return False
            self._opened = now  # this caller tries; the others wait for another cool-down
            return True

    def succeeded(self) -> None:
        """It answered."""
        if self._failures:  # as `allows`
            with self._lock:
                self._failures = 0
                self._reason = ""

    def failed(self, reason: str) -> None:
        """It did not answer."""
        with self._lock:
            self._failures += 1
            self._reason = reason
            if self._failures >= self._limit:
                self._opened = self._clock()


class HostIndex(Protocol):
    """The index that always answers; a snapshot's ``dense`` is one."""

    def search(self, vector: Float32, k: int, *, mask: Bool | None = None) -> tuple[Int32, Float32]:
        """Best ``k`` documents first."""
        ...


class FallbackIndex:
    """A GPU's index behind a dispatcher, and the CPU's behind it. Safe from many threads.

    Args:
        primary: asked first.
        secondary: asked when the first failed, is resting after failures, or cannot give so many documents.
        max_k: documents that the first can give.
        breaker: when to ask the first again.
    """

    def __init__(
        self, primary: Dispatcher, secondary: HostIndex, *, max_k: int, breaker: Breaker | None = None
    ) -> None:
        self._primary = primary
        self._secondary = secondary
        self._max_k = max_k
        self._breaker = breaker or Breaker()

    @property
    def reason(self) -> str:
        """Why the GPU's index failed last; empty while it works."""
        return self._breaker.reason

    def search(self, vector: Any, k: int, *, mask: Bool | None = None) -> tuple[Int32, Float32]:
        """The ``k`` documents nearest to ``vector``, best first; see :meth:`Dispatcher.search`."""
        docs, scores, _ = self.search_saying(vector, k, mask=mask)
        return docs, scores

    def search_saying(
        self,
        vector: Any,
        k: int,
        *,
        mask: Bool | None = None,
        timeout_s: float = math.inf,
        departed: Callable[[], bool] | None = None,
    ) -> tuple[Int32, Float32, str]:
        """As :meth:`Dispatcher.search`, and why the GPU did not answer (empty if it did).

        Raises:
            RecallTimeoutError: no result in time; the CPU would be later still.
            QueryError: what no index can take.
        """
        if k > self._max_k:
            return self._on_host(vector, k, mask, f"{k} documents are wanted, the GPU gives {self._max_k}")
        if not self._breaker.allows():
            return self._on_host(vector, k, mask, self._breaker.reason)
        try:
            docs, scores = self._primary.search(vector, k, mask=mask, timeout_s=timeout_s, departed=departed)
        except RecallTimeoutError:
            raise
        except (OverloadedError, ClosedError) as error:
            return self._on_host(vector, k, mask, str(error))
        except EngineError as error:
            self._breaker.failed(str(error))
            return self._on_host(vector, k, mask, str(error))
        self._breaker.succeeded()
        return docs, scores, ""

    def begin(self, vector: Any, k: int) -> Begun | None:
        """As :meth:`Dispatcher.begin`; None also while the GPU's index has failures to live down.

        What fails is not counted here: who asks again, by :meth:`search_saying`, finds out what it was.
        """
        if k > self._max_k or self._breaker.reason:
            return None
        return self._primary.begin(vector, k)

    def _on_host(self, vector: Any, k: int, mask: Bool | None, reason: str) -> tuple[Int32, Float32, str]:
        known = host_copy(vector)
        if known is not None:
            vector = known
        elif on_device(vector):
            try:
                cupy = require("cupy", "gpu")
                vector = cupy.asnumpy(cupy.asarray(vector))
            except Exception as error:
                # A device that has failed may not give the vector back either.
                raise EngineError(
                    f"{reason}; and the query vector is lost with the device: {error}"
                ) from error
        docs, scores = self._secondary.search(np.asarray(vector, np.float32), k, mask=mask)
        return docs, scores, reason
