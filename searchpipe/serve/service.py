"""A pipeline's life behind a server: opening, warming, ready, draining, closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from searchpipe.errors import SearchpipeError
from searchpipe.live.pipeline import LivePipeline
from searchpipe.pipeline import Pipeline

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_LOG = logging.getLogger("searchpipe.serve")

Status = Literal["opening", "warming", "ready", "draining", "closed", "failed"]
Served = Pipeline | LivePipeline
_SMOOTHING = 0.05  # weight of the newest answer in the running mean of what one takes


class Service:
    """Opens and warms a pipeline beside the server, which answers ``/health/live`` meanwhile.

    Any thread may call anything; ``start``, ``drain`` and ``close`` may be repeated.

    Args:
        source: a pipeline, which its owner closes; or what opens one, which is then closed here.
        registry: where the pipeline's metrics go.
    """

    def __init__(self, source: Served | Callable[[], Served], registry: CollectorRegistry) -> None:
        self._source = source
        self._registry = registry
        self._lock = threading.Lock()
        self._status: Status = "opening"
        self._pipeline: Served | None = None
        self._starter: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.mean_s = 0.0

    @property
    def status(self) -> Status:
        """Where it stands."""
        return self._status

    @property
    def pipeline(self) -> Served | None:
        """The pipeline, while queries may be asked: from ``ready`` to the end of ``draining``."""
        return self._pipeline if self._status in ("ready", "draining") else None

    def start(self) -> None:
        """Open and warm up on a thread of its own."""
        with self._lock:
            if self._starter is not None:
                return
            self._starter = threading.Thread(target=self._start, name="searchpipe-start", daemon=True)
            self._starter.start()

    def drain(self) -> None:
        """Say that no more requests are wanted; those that come are still answered."""
        with self._lock:
            if self._status in ("opening", "warming", "ready"):
                self._status = "draining"

    def reload(self) -> None:
        """Have a live pipeline look for a new version now; nothing for any other. Returns at once."""
        if isinstance(self._pipeline, LivePipeline):
            self._pipeline.request_reload()

    def close(self, timeout_s: float | None = None) -> bool:
        """Wait for running queries and close the pipeline; whether that was done in time."""
        self.drain()
        closer = threading.Thread(target=self._close, name="searchpipe-close", daemon=True)
        closer.start()
        closer.join(timeout_s)
        return not closer.is_alive()

    def took(self, seconds: float) -> None:
        """An answer took so long; for ``Retry-After``. Races lose a sample, no more."""
        self.mean_s += (seconds - self.mean_s) * (_SMOOTHING if self.mean_s else 1.0)

    def _start(self) -> None:
        from searchpipe.metrics.prometheus import watch

        try:
            source = self._source
            pipeline = source if isinstance(source, Served) else source()
            self._pipeline = pipeline
            watch(pipeline, self._registry)
            self._advance("opening", "warming")
            seconds = pipeline.warm_up()
            self._advance("warming", "ready")
            if isinstance(pipeline, LivePipeline) and not isinstance(source, Served):
                pipeline.follow()
            _LOG.info("Ready after %.2f s of warming up", seconds)
        except BaseException as error:
            if self._status in ("draining", "closed"):
                return  # closed while it warmed up
            self.failure = error
            self._status = "failed"
            if not isinstance(error, SearchpipeError):
                _LOG.exception("The pipeline could not be opened")
            self.on_failure()

    def _advance(self, before: Status, after: Status) -> None:
        with self._lock:
            if self._status == before:
                self._status = after

    def _close(self) -> None:
        if self._starter is not None:
            self._starter.join()
        if self._pipeline is not None and not isinstance(self._source, Served):
            self._pipeline.close()
        with self._lock:
            self._status = "failed" if self.failure is not None else "closed"
