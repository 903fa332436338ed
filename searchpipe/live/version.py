"""One version that is open: its pipeline, and who is asking it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from searchpipe.live.spec import VersionSpec
from searchpipe.pipeline import Pipeline

_LOG = logging.getLogger("searchpipe.live")


class Version:
    """A pipeline with leases: it is closed only when the last query that chose it has ended.

    Any thread may call anything.

    Args:
        number: counts the versions of a live pipeline from 1.
        spec: what it was opened from.
        pipeline: owned; closed by :meth:`retire`.
    """

    def __init__(self, number: int, spec: VersionSpec, pipeline: Pipeline) -> None:
        self.number = number
        self.spec = spec
        self.pipeline = pipeline
        self.opened = time.time()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._leases = 0
        self._retired = False
        self._closed = threading.Event()

    @contextmanager
    def lease(self) -> Iterator[bool]:
        """Keep it open for the body of a ``with``; yields False if the version takes no more queries."""
        counted = False  # in one stroke with the count, and given back before any call: see "Interrupts"
        try:
            with self._lock:
                if not self._retired:
                    self._leases += 1
                    counted = True
            yield counted
        finally:
            if counted:
                with self._lock:
                    self._leases -= 1
                    if not self._leases:
                        self._idle.notify_all()

    def retire(self) -> None:
        """Take no more queries, and close when the last one has ended; on a thread of its own. Idempotent.

        Where no thread can be begun, as in Python 3.12 while the interpreter ends, on the caller's.
        """
        with self._idle:
            if self._retired:
                return
            self._retired = True
        closer = threading.Thread(target=self._close, name=f"searchpipe-retire-{self.number}", daemon=True)
        try:
            closer.start()
        except RuntimeError:
            self._close()

    def end(self, seconds: float) -> None:
        """Close because the interpreter ends; what is closing already frees its memory before that, too."""
        due = time.monotonic() + seconds
        self.pipeline.end(seconds)
        if self._retired:
            self.wait_closed(max(0.0, due - time.monotonic()))

    def wait_closed(self, timeout_s: float | None = None) -> bool:
        """Whether it was closed within the time."""
        return self._closed.wait(timeout_s)

    @property
    def closed(self) -> bool:
        """Whether nothing of it is left."""
        return self._closed.is_set()

    def _close(self) -> None:
        with self._idle:
            self._idle.wait_for(lambda: self._leases == 0)
        try:
            self.pipeline.close()
        except Exception:
            _LOG.exception("Version %d could not be closed", self.number)
        finally:
            self._closed.set()
