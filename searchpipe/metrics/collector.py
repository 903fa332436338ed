"""What the collectors that read a pipeline have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from searchpipe.catalog.optional import require

if TYPE_CHECKING:
    from searchpipe.live.pipeline import LivePipeline
    from searchpipe.pipeline import Pipeline


class Collector:
    """Read when Prometheus asks. Any thread may call anything; a closed pipeline has nothing to tell.

    A subclass names its families and fills them.

    Args:
        pipeline: what is read.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """

    def __init__(self, pipeline: Pipeline | LivePipeline) -> None:
        self._core = require("prometheus_client.core", "metrics")
        self._pipeline = pipeline

    def describe(self) -> Iterator[Any]:
        """All families, without samples."""
        yield from self._families()

    def collect(self) -> Iterator[Any]:
        """All families, as of now."""
        families = {family.name: family for family in self._families()}
        self._fill(families)
        yield from families.values()

    def _families(self) -> list[Any]:
        """New families of prometheus_client, without samples."""
        raise NotImplementedError

    def _fill(self, families: dict[str, Any]) -> None:
        """Add samples to the families, which go by their names."""
        raise NotImplementedError
