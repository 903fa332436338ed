"""What recall finds for a query, as rankers see it when they serve, by the pipeline's own stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from searchpipe.errors import QueryError

if TYPE_CHECKING:
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config
    from searchpipe.stages.base import Work


class Recalled:
    """Runs tokenize, encode and recall over an open snapshot, which stays open. One thread at a time."""

    def __init__(self, snapshot: Snapshot, config: Config | None = None) -> None:
        from searchpipe.assemble import assemble
        from searchpipe.cache.settings import CacheSettings
        from searchpipe.config import Config
        from searchpipe.device.settings import GpuSettings
        from searchpipe.pipeline import Pipeline

        stages = ("tokenize", "encode", "recall", "page")
        # Recall alone needs no GPU, and whoever trains or calibrates beside it may want all of it.
        # Nor caches: what the page's stand-in has seen is not on the page.
        chosen = msgspec.structs.replace(
            (config or Config()).with_stages(stages), gpu=GpuSettings(use="never"), cache=CacheSettings()
        )
        self._page = KeptWork()
        self._owned = ExitStack()
        assembly = assemble(snapshot, chosen, {"page": self._page})
        self._owned.callback(assembly.engines.close)
        self._pipeline = self._owned.enter_context(Pipeline(assembly.stages, None, chosen))

    def work(self, text: str, context: Mapping[str, Any] | None = None) -> Work | None:
        """The query's state after recall, with no time limit; None for a query without any text."""
        try:
            self._pipeline.search(text, budget_ms=math.inf, context=dict(context or {}))
        except QueryError:
            return None
        return self._page.work

    def close(self) -> None:
        """Close the stages."""
        self._owned.close()


class KeptWork:
    """Stands in for the page and keeps what the stages before it found. One thread at a time."""

    name, essential = "page", True
    reads: tuple[str, ...] = ("candidates",)
    writes: tuple[str, ...] = ("hits",)

    def __init__(self) -> None:
        self.work: Work | None = None

    def run(self, work: Work) -> None:
        self.work = work
        work.hits = []

    def describe(self) -> str:
        return "keeps the candidates"
