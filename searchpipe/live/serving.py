"""What a live pipeline says of itself: whatever the serving version says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from searchpipe.config import Config
from searchpipe.cost_model import CostModel
from searchpipe.live.lineup import Lineup
from searchpipe.stage_breakers import StageBreakers
from searchpipe.stages.base import Stage

if TYPE_CHECKING:
    from searchpipe.admission import Admission
    from searchpipe.cache import CacheStats
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.gpu_engines import GpuEngines


class Serving:
    """Passes questions on. Any thread may call anything; two answers may be of two versions."""

    _lineup: Lineup

    def describe(self) -> str:
        """The serving version's stages, and which versions are open."""
        lines = [self._lineup.current.pipeline.describe()]
        lines += [
            f"  version {one.number:<3} {'serves' if one is self._lineup.current else 'is kept or closing'}: "
            f"{one.spec.identity}"
            for one in self._lineup.open_versions()
        ]
        return "\n".join(lines)

    def warm_up(self, texts: Sequence[str] = (), budget_ms: float = 500.0) -> float:
        """Warm the serving version once more (each is warmed before it serves); returns seconds."""
        with self._lineup.lease() as version:
            if texts:
                return version.pipeline.warm_up(texts, budget_ms)
            return version.pipeline.warm_up(budget_ms=budget_ms)

    @property
    def costs(self) -> CostModel:
        """Of the serving version."""
        return self._lineup.current.pipeline.costs

    @property
    def breakers(self) -> StageBreakers:
        """Of the serving version."""
        return self._lineup.current.pipeline.breakers

    @property
    def snapshot(self) -> Snapshot | None:
        """Of the serving version."""
        return self._lineup.current.pipeline.snapshot

    @property
    def gpu(self) -> GpuEngines | None:
        """Of the serving version."""
        return self._lineup.current.pipeline.gpu

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the serving version."""
        return self._lineup.current.pipeline.stages

    @property
    def caches(self) -> dict[str, CacheStats]:
        """Of the serving version, which begins with empty ones."""
        return self._lineup.current.pipeline.caches

    @property
    def config(self) -> Config:
        """Of the serving version."""
        return self._lineup.current.pipeline.config

    @property
    def admission(self) -> Admission | None:
        """Of the serving version."""
        return self._lineup.current.pipeline.admission

    @property
    def load(self) -> tuple[int, int]:
        """Queries that run now and ``asearch`` calls that wait, on all open versions."""
        loads = [version.pipeline.load for version in self._lineup.open_versions()]
        return sum(running for running, _ in loads), sum(waiting for _, waiting in loads)
