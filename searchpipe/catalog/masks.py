"""Masks of recent filters, so that equal filters are evaluated once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from searchpipe.arrays import Bool
from searchpipe.catalog.columns import Columns
from searchpipe.catalog.filters import parse_filters

_MASKS_KEPT = 64


class MaskCache:
    """The least recently used of 64 masks makes room for the next. Safe from many threads.

    Two threads that ask for the same new filter at once may both evaluate it.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._lock = threading.Lock()
        self._masks: OrderedDict[str, Bool] = OrderedDict()

    def mask(self, filters: Mapping[str, Any] | None) -> Bool | None:
        """Read-only bool ``(count,)`` of the documents that match; None without filters.

        Raises:
            FilterError: for filters that cannot be parsed.

        """
        parsed = parse_filters(filters, self._columns)
        if parsed is None:
            return None
        key = repr(parsed)
        with self._lock:
            found = self._masks.get(key)
            if found is not None:
                self._masks.move_to_end(key)
                return found
        made = parsed.mask(self._columns)
        made.setflags(write=False)
        with self._lock:
            self._masks[key] = made
            while len(self._masks) > _MASKS_KEPT:
                self._masks.popitem(last=False)
        return made
