"""Caches as Prometheus sees them."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from searchpipe.metrics.prometheus import watch
from tests.fakes.hashed_stages import hashed_pipeline


def test_hits_misses_and_what_is_held(snapshot_folder: Path) -> None:
    registry = CollectorRegistry()

    def value(name: str, cache: str = "results") -> float | None:
        return registry.get_sample_value(f"searchpipe_cache_{name}", {"cache": cache})

    with hashed_pipeline(snapshot_folder, {"cache": {"results_entries": 2}}) as pipeline:
        watch(pipeline, registry, gpu=False)
        for text in ("red", "red", "boots", "toy", "red"):
            pipeline.search(text, budget_ms=60_000)
        pipeline.search("red", budget_ms=60_000, context={"user": object()})
        assert (value("hits_total"), value("misses_total"), value("evictions_total")) == (1, 4, 2)
        assert (value("entries"), value("bypassed_total"), value("expirations_total")) == (2, 1, 0)
        assert value("bytes") == pipeline.caches["results"].bytes > 0
        assert value("hits_total", "embeddings") is None
        # The latency counts hits too, and their span is a stage's.
        assert registry.get_sample_value("searchpipe_query_seconds_count") == 6
        assert registry.get_sample_value("searchpipe_stage_seconds_count", {"stage": "cache"}) == 1


def test_without_caches_there_is_nothing_to_tell(snapshot_folder: Path) -> None:
    registry = CollectorRegistry()
    with hashed_pipeline(snapshot_folder) as pipeline:
        watch(pipeline, registry, gpu=False)
        pipeline.search("red")
        told = {sample.name for family in registry.collect() for sample in family.samples}
    assert not [name for name in told if "cache" in name]
