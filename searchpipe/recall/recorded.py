"""Searches that a device is asked for again and again, recorded and put on its stream as one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

from searchpipe import _core
from searchpipe.recall.rule import IndexPlan

_LOG = logging.getLogger("searchpipe.gpu")
_MOST_COUNTED = 64
"""Kinds of search whose number is known; many callers at once make more, and gain nothing."""
_INDEXES, _VERSIONS = (("ivf-flat", "float32"),), ("1.15.",)
"""Kinds and codes of indexes, and FAISS's versions, that were recorded on an H200."""


def can_record(faiss: Any, plan: IndexPlan) -> bool:
    """Whether searches of such an index were seen to be recorded.

    No others are tried: FAISS may end the process when CUDA refuses what it does. A flat index waits for the
    device in each search, which no recording allows.
    """
    version = str(getattr(faiss, "__version__", ""))
    return (plan.kind, plan.codes) in _INDEXES and version.startswith(_VERSIONS)


class RecordedSearches:
    """Puts searches on a stream: the first few times as the library does, then from a recording.

    A library that searches puts a dozen pieces of work on the device, some 10 us of the host each; a recorded
    search is one call. It reads and writes the same addresses every time, so a caller tells apart by ``key``
    whatever makes a search another one. One thread at a time.

    Args:
        device: ordinal of the GPU.
        stream: the index's own, as a number.
        limit: recordings kept; further kinds of search are never recorded.
        after: times that a kind of search is put there by the library before.

    Attributes:
        reason: why nothing is recorded any more; empty while it is.
    """

    def __init__(self, device: int, stream: int, *, limit: int = 8, after: int = 8) -> None:
        self._device = device
        self._stream = stream
        self._limit = limit
        self._after = after
        self._seen: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, _core.RecordedWork] = {}
        self.reason = ""

    def __len__(self) -> int:
        return len(self._recorded)

    def put(self, key: Hashable, search: Callable[[], None]) -> None:
        """Put a search on the stream; ``search`` does so, and nothing else that has to happen each time.

        Raises:
            EngineError: what ``search`` raises, or the driver has failed.
        """
        work = self._recorded.get(key)
        if work is None and self._is_due(key):
            work = self._record(key, search)
        if work is None:
            search()
        else:
            work.launch(self._stream)

    def forget(self) -> None:
        """Drop all recordings: searches will be others from now on."""
        self._recorded.clear()
        self._seen.clear()

    def _is_due(self, key: Hashable) -> bool:
        if self.reason or len(self._recorded) >= self._limit:
            return False
        seen = self._seen.get(key, 0) + 1
        if seen > 1 or len(self._seen) < _MOST_COUNTED:
            self._seen[key] = seen
        return seen > self._after

    def _record(self, key: Hashable, search: Callable[[], None]) -> _core.RecordedWork | None:
        try:
            work = _core.RecordedWork(_core.Device(self._device), self._stream, search)
        except Exception as error:  # libraries raise what they like; without a recording it works as before
            self.reason = str(error)
            _LOG.info("dense recall's searches are not recorded: %s", error)
            return None
        self._recorded[key] = work
        return work
