"""Caches of pages and of queries' vectors: off by default, bounded, exact."""

from searchpipe.cache.bounded import BoundedCache, CacheStats
from searchpipe.cache.bypass import bypassed, uncached

__all__ = ["BoundedCache", "CacheStats", "bypassed", "uncached"]
