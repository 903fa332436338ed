"""Prometheus metrics of a pipeline. Needs the extra ``metrics``.

::

    from searchpipe.metrics.prometheus import watch

    watch(pipeline)  # into prometheus_client's own registry
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchpipe.catalog.optional import require
from searchpipe.metrics.observer import code_of
from searchpipe.page import Page

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from searchpipe.live.pipeline import LivePipeline
    from searchpipe.pipeline import Pipeline

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5),
)
"""Upper ends of the buckets of every latency histogram: dense below the default budget of 50 ms."""

_PAIRS = (0, 1, 4, 8, 16, 32, 64, 100, 128, 192, 256, 384, 512, 1024)


class QueryMetrics:
    """Counts and times queries. Any thread may call anything.

    Args:
        registry: where the metrics are registered.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
        ValueError: the registry has them already.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        prometheus = require("prometheus_client", "metrics")
        counter, histogram = prometheus.Counter, prometheus.Histogram
        self._queries = counter(
            "searchpipe_queries",
            "Answered queries, by whether anything was given up.",
            ["outcome"],
            registry=registry,
        )
        self._errors = counter(
            "searchpipe_errors", "Queries that ended without a page, by code.", ["code"], registry=registry
        )
        self._degradations = counter(
            "searchpipe_degradations", "What was given up.", ["stage", "reason"], registry=registry
        )
        self._late = counter(
            "searchpipe_over_budget", "Answers that came after their budget.", registry=registry
        )
        self._empty = counter("searchpipe_empty_pages", "Answers without a hit.", registry=registry)
        self._seconds = histogram(
            "searchpipe_query_seconds", "From call to page.", buckets=SECONDS, registry=registry
        )
        self._queued = histogram(
            "searchpipe_queue_seconds",
            "From call to the first stage: waiting for a thread.",
            buckets=SECONDS,
            registry=registry,
        )
        self._stages = histogram(
            "searchpipe_stage_seconds", "Of one stage.", ["stage"], buckets=SECONDS, registry=registry
        )
        self._pairs = histogram(
            "searchpipe_scored_pairs",
            "Candidates that the cross-encoder read, a query.",
            buckets=_PAIRS,
            registry=registry,
        )
        for outcome in ("full", "degraded"):
            self._queries.labels(outcome)

    def answered(self, page: Page) -> None:
        """Count and time an answer."""
        trace = page.trace
        self._queries.labels("degraded" if page.degradations else "full").inc()
        self._seconds.observe(trace.total_ms / 1e3)
        if trace.total_ms > trace.budget_ms:
            self._late.inc()
        if not page.hits:
            self._empty.inc()
        if trace.spans:
            self._queued.observe(trace.spans[0].start_ms / 1e3)
        for span in trace.spans:
            self._stages.labels(span.stage).observe(span.ms / 1e3)
            if span.stage == "score":
                self._pairs.observe(span.units)
        for degradation in page.degradations:
            self._degradations.labels(degradation.stage, degradation.reason).inc()

    def refused(self, text: object, error: BaseException) -> None:  # noqa: ARG002
        """Count a refusal by its code."""
        self._errors.labels(code_of(error)).inc()


def watch(
    pipeline: Pipeline | LivePipeline, registry: CollectorRegistry | None = None, *, gpu: bool = True
) -> None:
    """Register everything there is to know about a pipeline: its queries, caches, engines, snapshot and GPUs.

    Args:
        pipeline: watched from now on, until it is closed; of a live one also its versions.
        registry: prometheus_client's own if None. A registry takes one pipeline.
        gpu: also report the GPUs' memory and utilisation, where NVML is to be had.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
        ValueError: the registry watches a pipeline already.
    """
    prometheus = require("prometheus_client", "metrics")
    from searchpipe.live.pipeline import LivePipeline
    from searchpipe.metrics.cache_collector import CacheCollector
    from searchpipe.metrics.engine_collector import PipelineCollector
    from searchpipe.metrics.gpu_collector import GpuCollector

    chosen = prometheus.REGISTRY if registry is None else registry
    pipeline.observe(QueryMetrics(chosen))
    chosen.register(PipelineCollector(pipeline))
    chosen.register(CacheCollector(pipeline))
    if isinstance(pipeline, LivePipeline):
        from searchpipe.metrics.live_collector import LiveCollector

        chosen.register(LiveCollector(pipeline))
    if gpu:
        chosen.register(GpuCollector())
