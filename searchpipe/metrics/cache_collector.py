"""The caches of a pipeline, read when Prometheus asks."""

from __future__ import annotations

from typing import Any

from searchpipe.metrics.collector import Collector

# Name, help, attribute of the cache's statistics.
_COUNTERS = (
    ("searchpipe_cache_hits", "Lookups that found something.", "hits"),
    ("searchpipe_cache_misses", "Lookups that did not.", "misses"),
    ("searchpipe_cache_evictions", "Entries that gave way to others.", "evictions"),
    ("searchpipe_cache_expirations", "Entries that were found too old.", "expirations"),
    ("searchpipe_cache_bypassed", "Queries without a key, and values that could not be kept.", "bypassed"),
)
_GAUGES = (
    ("searchpipe_cache_entries", "Entries held.", "entries"),
    ("searchpipe_cache_bytes", "Memory of the entries, estimated.", "bytes"),
)


class CacheCollector(Collector):
    """A collector for one pipeline's caches, without samples where none is on.

    Of a live pipeline, those of the version that serves.
    """

    def _fill(self, families: dict[str, Any]) -> None:
        for cache, stats in self._pipeline.caches.items():
            for name, _, attribute in (*_COUNTERS, *_GAUGES):
                families[name].add_metric([cache], getattr(stats, attribute))

    def _families(self) -> list[Any]:
        counter, gauge = self._core.CounterMetricFamily, self._core.GaugeMetricFamily
        counters = [counter(name, text, labels=["cache"]) for name, text, _ in _COUNTERS]
        return counters + [gauge(name, text, labels=["cache"]) for name, text, _ in _GAUGES]
