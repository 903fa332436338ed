"""The caches of a pipeline, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from searchpipe.catalog.optional import require

if TYPE_CHECKING:
    from searchpipe.live.pipeline import LivePipeline
    from searchpipe.pipeline import Pipeline

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


class CacheCollector:
    """A collector for one pipeline's caches, without samples where none is on. Any thread may call anything.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """

    def __init__(self, pipeline: Pipeline | LivePipeline) -> None:
        self._core = require("prometheus_client.core", "metrics")
        self._pipeline = pipeline

    def describe(self) -> Iterator[Any]:
        """All families, without samples."""
        yield from self._families().values()

    def collect(self) -> Iterator[Any]:
        """All families, as of now; of a live pipeline those of the version that serves."""
        families = self._families()
        for cache, stats in self._pipeline.caches.items():
            for name, _, attribute in (*_COUNTERS, *_GAUGES):
                families[name].add_metric([cache], getattr(stats, attribute))
        yield from families.values()

    def _families(self) -> dict[str, Any]:
        counter, gauge = self._core.CounterMetricFamily, self._core.GaugeMetricFamily
        made = [counter(name, text, labels=["cache"]) for name, text, _ in _COUNTERS]
        made += [gauge(name, text, labels=["cache"]) for name, text, _ in _GAUGES]
        return {family.name: family for family in made}
