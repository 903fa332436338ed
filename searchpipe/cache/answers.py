"""Pages from the stages, or from those that were given before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from searchpipe.cache.bounded import BoundedCache, CacheStats
from searchpipe.cache.bypass import bypassed
from searchpipe.cache.keys import Key, key_of, size_of
from searchpipe.decodable import decodable
from searchpipe.identity import engine_version
from searchpipe.page import Hit, Page, Span, Trace

if TYPE_CHECKING:
    from searchpipe.cache.settings import CacheSettings
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config
    from searchpipe.runner import StageRunner
    from searchpipe.stages.base import Work

_MIB = 2**20
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(decodable(tuple[Hit, ...]))


class Answers:
    """Answers queries for one version of the data, models and settings; any thread, each with its own work.

    A page is kept only if nothing was given up for it and it holds plain values alone: it is kept as
    bytes, so that no caller can change what another one gets, and is read back and compared once
    before. Pages with slots of the user's own stages (``extras``) are not kept.

    Args:
        runner: runs the stages.
        settings: of the caches.
        snapshot: version of the data.
        engine: version of models and settings.
        clock: monotonic seconds, for the age of pages.
    """

    def __init__(
        self,
        runner: StageRunner,
        settings: CacheSettings,
        *,
        snapshot: str = "",
        engine: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._versions = snapshot, engine
        self._pages: BoundedCache[bytes] | None = None
        if settings.results_entries:
            self._pages = BoundedCache(
                settings.results_entries,
                max_bytes=settings.results_mb * _MIB,
                ttl_s=settings.results_ttl_s or math.inf,
                clock=clock,
            )

    @classmethod
    def of(cls, runner: StageRunner, config: Config, snapshot: Snapshot | None) -> Answers:
        """The answers of a pipeline."""
        version = snapshot.version if snapshot is not None else ""
        return cls(runner, config.cache, snapshot=version, engine=engine_version(config, runner.stages))

    @property
    def caching(self) -> bool:
        """Whether pages are kept."""
        return self._pages is not None

    def ready(self, work: Work) -> Page | None:
        """The answer, if it can be had without any work; counted as a miss only by :meth:`run`."""
        pages = self._pages
        if pages is None or bypassed():
            return None
        key = key_of(work.query, *self._versions)
        return None if key is None else self._kept(pages, key, work, last=False)

    def run(self, work: Work) -> Page:
        """The answer.

        Raises:
            QueryCancelled: the caller has left.
        """
        work.deadline.check_cancelled()
        pages = self._pages
        if pages is None or bypassed():
            return self._computed(work)
        # What was given up before the first stage may have changed the query; it is no longer the caller's.
        key = None if work.degradations else key_of(work.query, *self._versions)
        if key is None:
            pages.pass_by()
            return self._computed(work)
        found = self._kept(pages, key, work, last=True)
        if found is not None:
            return found
        page = self._computed(work)
        if not page.degradations:
            self._keep(pages, key, page, work)
        return page

    def stats(self) -> dict[str, CacheStats]:
        """Name -> figures of each cache that is on: ``results`` and ``embeddings``."""
        found = {} if self._pages is None else {"results": self._pages.stats()}
        for stage in self._runner.stages:
            cache = getattr(stage, "cache", None)
            if isinstance(cache, BoundedCache):
                found["embeddings" if stage.name == "encode" else stage.name] = cache.stats()
        return found

    def close(self) -> None:
        """Forget all pages."""
        if self._pages is not None:
            self._pages.clear()

    def _computed(self, work: Work) -> Page:
        return self._runner.run(work, snapshot=self._versions[0], engine=self._versions[1])

    def _kept(self, pages: BoundedCache[bytes], key: Key, work: Work, *, last: bool) -> Page | None:
        begin = work.deadline.elapsed()
        content = pages.get(key, last=last)
        if content is None:
            return None
        hits = _DECODER.decode(content)
        end = work.deadline.elapsed()
        start_ms, ms = begin * 1e3, (end - begin) * 1e3
        span = Span("cache", start_ms, ms, 0, len(hits), "hit")
        trace = Trace(end * 1e3, work.deadline.budget_s * 1e3, ms, (span,))
        snapshot, engine = self._versions
        return Page(work.query.text, hits, (), trace, snapshot, {}, engine, cached=True)

    def _keep(self, pages: BoundedCache[bytes], key: Key, page: Page, work: Work) -> None:
        try:
            content = _ENCODER.encode(page.hits)
            whole = not page.extras and _DECODER.decode(content) == page.hits
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
            whole = False
        # The context is the caller's own object: changed while the stages read it, it is another query.
        if whole and key_of(work.query, *self._versions) == key:
            pages.put(key, content, len(content) + size_of(key))
        else:
            pages.pass_by()
