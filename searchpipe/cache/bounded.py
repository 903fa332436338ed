"""A cache bounded by entries, bytes and age that forgets what was used least recently."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")

OVERHEAD_BYTES = 400
"""What an entry takes beside its key's and its value's own bytes: the table's slot and link, a tuple,
objects' headers. An estimate, measured at 330 to 380 on CPython 3.11 and 3.12."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache has done since it was made, and what it holds.

    Attributes:
        hits: lookups that found something.
        misses: lookups that did not.
        evictions: entries that gave way because a bound was reached.
        expirations: entries that were found too old.
        bypassed: queries that have no key or are cut short already, and values that could not be kept.
        entries: held now, expired ones included until they are met.
        bytes: of these, estimated.
        max_entries: the bound.
        max_bytes: the bound; infinite for none.
    """

    hits: int
    misses: int
    evictions: int
    expirations: int
    bypassed: int
    entries: int
    bytes: int
    max_entries: int
    max_bytes: float

    @property
    def hit_rate(self) -> float:
        """Share of the lookups that found something, 0 to 1; NaN before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else math.nan

    def line(self) -> str:
        """In words."""
        rate = "not asked yet" if math.isnan(self.hit_rate) else f"hit rate {self.hit_rate:.1%}"
        return f"{rate}, {self.entries:,} of {self.max_entries:,} entries, {self.bytes / 2**20:,.1f} MB"


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    size: int
    until: float


class BoundedCache(Generic[V]):
    """Least recently used first out. Any thread may call anything; nothing is computed under its lock.

    Values are given out as they were put in: put in what nobody can change.

    Args:
        entries: kept at most, at least 1.
        max_bytes: of all entries together, by the sizes that :meth:`put` is given.
        ttl_s: seconds for which an entry is given out.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        entries: int,
        *,
        max_bytes: float = math.inf,
        ttl_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = entries
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()
        self._bytes = 0
        self._hits = self._misses = self._evictions = self._expirations = self._bypassed = 0

    def get(self, key: Hashable, *, last: bool = True) -> V | None:
        """What was put under ``key``, if it is still there and not too old.

        Args:
            key: as it was put.
            last: count a miss; false if the same caller will look again.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._clock() >= entry.until:
                self._drop(key)
                self._expirations += 1
                entry = None
            if entry is None:
                self._misses += last
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            return entry.value

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Keep ``value``, and forget others if there is no room; it replaces what ``key`` had.

        Args:
            key: hashable, and never changed.
            value: kept as it is.
            size: bytes of key and value, :data:`OVERHEAD_BYTES` not included. An entry larger than all
                the room there is, is not kept.
        """
        size += OVERHEAD_BYTES
        with self._lock:
            if key in self._entries:
                self._drop(key)
            if size > self._max_bytes:
                self._bypassed += 1
                return
            self._entries[key] = _Entry(value, size, self._clock() + self._ttl_s)
            self._bytes += size
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))
                self._evictions += 1

    def pass_by(self) -> None:
        """Count a query or a value that is nothing for this cache."""
        with self._lock:
            self._bypassed += 1

    def clear(self) -> None:
        """Forget everything but the counts."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def stats(self) -> CacheStats:
        """As of now."""
        with self._lock:
            return CacheStats(
                self._hits,
                self._misses,
                self._evictions,
                self._expirations,
                self._bypassed,
                len(self._entries),
                self._bytes,
                self._max_entries,
                self._max_bytes,
            )

    def _drop(self, key: Hashable) -> None:
        self._bytes -= self._entries[key].size  # no call between the two: see CONTRIBUTING.md, "Interrupts"
        del self._entries[key]
