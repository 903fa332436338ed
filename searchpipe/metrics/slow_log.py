"""The slow-query log: whole traces, in rotated files of bounded size."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import threading
import time
from pathlib import Path
from typing import Any

from searchpipe.errors import ConfigError
from searchpipe.metrics.query_log import summary
from searchpipe.metrics.settings import SlowLogSettings
from searchpipe.page import Page

_MAX_QUEUED = 256  # traces that wait for the disk; on a bad day every query is slow


class SlowLog:
    """Writes each query over the threshold as one JSON line, on a thread of its own.

    A query only queues its page. While the disk cannot follow, what comes on top
    is counted in ``dropped`` and left out. Any thread may call anything; ``close`` writes what is
    queued and may be repeated.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, settings: SlowLogSettings) -> None:
        self._settings = settings
        self.dropped = 0
        self.written = 0
        path = Path(settings.file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _Handler(
                path, maxBytes=settings.max_bytes, backupCount=settings.backups, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"metrics.slow.file: cannot write {path}: {error.strerror}.") from error
        self._queue: queue.Queue[tuple[float, Page] | None] = queue.Queue(_MAX_QUEUED)
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="searchpipe-slow-log", daemon=True)
        self._thread.start()

    def answered(self, page: Page) -> None:
        """Queue it, if it was slow."""
        if page.trace.total_ms < self._settings.threshold_ms:
            return
        with self._lock:
            if self._closed:
                return
            try:
                self._queue.put_nowait((time.time(), page))
            except queue.Full:
                self.dropped += 1

    def refused(self, text: object, error: BaseException) -> None:
        """A refused query has no trace."""

    def close(self) -> None:
        """Write what is queued, then close the file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()
        self._handler.close()

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            at, page = item
            try:
                line = json.dumps(self._line(at, page), default=str)
                self._handler.emit(logging.makeLogRecord({"msg": line}))
                self.written += 1
            except Exception:  # a full disk: the queries go on
                self.dropped += 1

    def _line(self, at: float, page: Page) -> dict[str, Any]:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
        return {
            "time": f"{stamp}.{int(at % 1 * 1e3):03d}Z",
            **summary(page, texts=self._settings.texts),
            "longest_step_ms": round(page.trace.longest_step_ms, 3),
            "spans": [
                {
                    "stage": span.stage,
                    "start_ms": round(span.start_ms, 3),
                    "ms": round(span.ms, 3),
                    "in": span.n_in,
                    "out": span.n_out,
                    "decision": span.decision,
                }
                for span in page.trace.spans
            ],
            "degradations": [
                {"stage": d.stage, "reason": d.reason, "given_up": d.given_up, "amount": d.amount}
                for d in page.degradations
            ],
        }


class _Handler(logging.handlers.RotatingFileHandler):
    """Raises what goes wrong, where logging would print it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002  (logging's own names)
        raise
