"""What a pipeline runs on, read when Prometheus asks: load, engines and their batches, recall, versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from searchpipe import __version__
from searchpipe.breaker import BreakerState
from searchpipe.catalog.optional import require
from searchpipe.errors import SearchpipeError
from searchpipe.metrics.admission import add_admission, admission_families

if TYPE_CHECKING:
    from searchpipe.gpu_engines import GpuEngines
    from searchpipe.live.pipeline import LivePipeline
    from searchpipe.pipeline import Pipeline
    from searchpipe.runtime.engine_chain import EngineChain

# Name, help, attribute of the scorer's statistics. Batch fill is real over padded tokens, waste the rest.
_ENGINE_COUNTERS = (
    ("searchpipe_engine_requests", "Requests that the engine took.", "requests"),
    ("searchpipe_engine_batches", "Batches that the engine ran.", "batches"),
    ("searchpipe_engine_rows", "Rows in those batches.", "rows"),
    ("searchpipe_engine_real_tokens", "Tokens in those rows.", "real_tokens"),
    ("searchpipe_engine_padded_tokens", "Tokens computed, padding included.", "padded_tokens"),
    ("searchpipe_engine_late_rows", "Rows dropped because their deadline came first.", "late_rows"),
    ("searchpipe_engine_failed_batches", "Batches that failed.", "failed_batches"),
)
_ENGINE_GAUGES = (
    ("searchpipe_engine_queued_rows", "Rows that wait for a batch.", "queued_rows"),
    ("searchpipe_engine_batches_in_flight", "Batches on the device now.", "batches_in_flight"),
)
_RECALL_COUNTERS = (
    ("searchpipe_recall_searches", "Searches of the GPU's index.", "searches"),
    ("searchpipe_recall_lookups", "Queries in those searches.", "lookups"),
    ("searchpipe_recall_failures", "Searches that failed.", "failures"),
    ("searchpipe_recall_dropped", "Lookups dropped because their caller had left.", "dropped"),
)
_QUANTILES = (0.5, 0.9, 0.99)


class PipelineCollector:
    """A collector for one pipeline. Any thread may call anything; a closed pipeline has nothing to tell.

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
        """All families, as of now."""
        families = self._families()
        pipeline = self._pipeline
        running, waiting = pipeline.load
        families["searchpipe_in_flight"].add_metric([], running)
        families["searchpipe_waiting"].add_metric([], waiting)
        add_admission(families, pipeline.admission)
        families["searchpipe_build"].add_metric([], {"version": __version__})
        if pipeline.snapshot is not None:
            families["searchpipe_snapshot"].add_metric([], {"version": pipeline.snapshot.version})
            families["searchpipe_snapshot_products"].add_metric([], pipeline.snapshot.count)
        for one in pipeline.breakers.reports():
            _add_breaker(families, one.name, one.state, one.trips)
        for stage in pipeline.stages:
            families["searchpipe_stage"].add_metric([stage.name], {"settings": stage.describe()})
        if pipeline.gpu is not None:
            _add_engines(families, pipeline.gpu)
        yield from families.values()

    def _families(self) -> dict[str, Any]:
        core = self._core
        engine = ["engine"]
        made = [
            core.GaugeMetricFamily("searchpipe_in_flight", "Queries that run now."),
            core.GaugeMetricFamily("searchpipe_waiting", "Queries that wait for a thread."),
            *admission_families(core),
            core.InfoMetricFamily("searchpipe_build", "The release."),
            core.InfoMetricFamily("searchpipe_snapshot", "The snapshot that is served."),
            core.GaugeMetricFamily("searchpipe_snapshot_products", "Products in the snapshot."),
            core.InfoMetricFamily("searchpipe_stage", "What each stage runs.", labels=["stage"]),
            core.GaugeMetricFamily(
                "searchpipe_breaker_state",
                "1 for the state of a circuit breaker: of a stage, a recall source or an engine.",
                labels=["breaker", "state"],
            ),
            core.CounterMetricFamily(
                "searchpipe_breaker_trips", "How often a circuit breaker opened.", labels=["breaker"]
            ),
            core.InfoMetricFamily("searchpipe_engine", "The engine that answers.", labels=engine),
            core.GaugeMetricFamily(
                "searchpipe_engine_serving",
                "1 for the link of the chain that answers, 0 for those that do not.",
                labels=["engine", "link"],
            ),
            core.CounterMetricFamily(
                "searchpipe_engine_fallbacks", "Links that failed and were replaced.", labels=engine
            ),
            core.CounterMetricFamily(
                "searchpipe_engine_returns", "Better links that came back.", labels=engine
            ),
            core.GaugeMetricFamily(
                "searchpipe_engine_queue_seconds",
                "Wait of a request for its batch, since the start.",
                labels=["engine", "quantile"],
            ),
            core.GaugeMetricFamily("searchpipe_recall_waiting", "Lookups that wait for the GPU's index."),
            core.GaugeMetricFamily(
                "searchpipe_recall_on_gpu", "1 while the GPU's index answers, 0 while the CPU stands in."
            ),
            *(core.CounterMetricFamily(name, text, labels=engine) for name, text, _ in _ENGINE_COUNTERS),
            *(core.GaugeMetricFamily(name, text, labels=engine) for name, text, _ in _ENGINE_GAUGES),
            *(core.CounterMetricFamily(name, text) for name, text, _ in _RECALL_COUNTERS),
        ]
        return {family.name: family for family in made}


def _add_breaker(families: dict[str, Any], name: str, state: BreakerState, trips: int) -> None:
    for one in get_args(BreakerState):
        families["searchpipe_breaker_state"].add_metric([name, one], float(one == state))
    families["searchpipe_breaker_trips"].add_metric([name], trips)


def _add_engines(families: dict[str, Any], gpu: GpuEngines) -> None:
    for name, owner in (("encoder", gpu.encoder), ("scorer", gpu.scorer)):
        if owner is not None:
            _add_chain(families, name, owner.chain)
    if gpu.recall is not None:
        stats = gpu.recall.dispatcher.stats()
        for name, _, attribute in _RECALL_COUNTERS:
            families[name].add_metric([], getattr(stats, attribute))
        families["searchpipe_recall_waiting"].add_metric([], stats.waiting)
        families["searchpipe_recall_on_gpu"].add_metric([], 0.0 if gpu.recall.index.reason else 1.0)


def _add_chain(families: dict[str, Any], name: str, chain: EngineChain) -> None:
    states = chain.states
    for state in states:
        serving = state.state == "serving"
        families["searchpipe_engine_serving"].add_metric([name, state.name], float(serving))
        _add_breaker(families, f"{name}.{state.name}", state.breaker, state.trips)
        if serving:
            families["searchpipe_engine"].add_metric(
                [name], {"link": state.name, "description": state.description}
            )
    families["searchpipe_engine_fallbacks"].add_metric([name], chain.fallbacks)
    families["searchpipe_engine_returns"].add_metric([name], chain.returns)
    try:
        scorer = chain.scorer
    except SearchpipeError:
        return  # none answers now: between two links, or closed
    stats = scorer.stats()
    for family, _, attribute in (*_ENGINE_COUNTERS, *_ENGINE_GAUGES):
        families[family].add_metric([name], getattr(stats, attribute))
    for point, seconds in zip(_QUANTILES, scorer.queue_seconds(list(_QUANTILES)), strict=True):
        families["searchpipe_engine_queue_seconds"].add_metric([name, f"{point:g}"], seconds)
