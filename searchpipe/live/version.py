"""One version that is open: its pipeline, and who is asking it."""

from __future__ import annotations

import logging
import threading
import time

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
        self._idle = threading.Condition()
        self._leases = 0
        self._retired = False
        self._closed = threading.Event()

    def enter(self) -> bool:
        """Take a lease, to be given back by :meth:`leave`; False if the version takes no more queries."""
        with self._idle:
            if self._retired:
                return False
            self._leases += 1
            return True

    def leave(self) -> None:
        """Give a lease back."""
        with self._idle:
            self._leases -= 1
            if not self._leases:
                self._idle.notify_all()

    def retire(self) -> None:
        """Take no more queries, and close when the last one has ended; on a thread of its own. Idempotent."""
        with self._idle:
            if self._retired:
                return
            self._retired = True
        threading.Thread(target=self._close, name=f"searchpipe-retire-{self.number}", daemon=True).start()

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
