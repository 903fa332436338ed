"""What Prometheus gets to see, of queries, engines, snapshot and GPUs."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from searchpipe import __version__
from searchpipe.breaker import BreakerPolicy
from searchpipe.config import load_config
from searchpipe.errors import EngineError, MissingDependencyError, QueryError
from searchpipe.gpu_engines import GpuEngines
from searchpipe.metrics.gpu_collector import GpuCollector
from searchpipe.metrics.prometheus import watch
from searchpipe.pipeline import Pipeline
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.lookup import Found
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.test_pipeline import Fake, middle, page, recall


def value(registry: CollectorRegistry, name: str, /, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_queries_are_counted_and_timed(pipeline: Pipeline) -> None:
    registry = CollectorRegistry()
    watch(pipeline, registry, gpu=False)
    answers = [pipeline.search("red shoes", budget_ms=5000) for _ in range(3)]
    pipeline.search("red shoes", budget_ms=0.0001)
    pipeline.search("red shoes", filters={"price": 1e9}, budget_ms=5000)
    with pytest.raises(QueryError):
        pipeline.search("")
    assert value(registry, "searchpipe_queries_total", outcome="full") == 4
    assert value(registry, "searchpipe_queries_total", outcome="degraded") == 1
    assert value(registry, "searchpipe_over_budget_total") == 1
    assert value(registry, "searchpipe_empty_pages_total") == 1
    assert value(registry, "searchpipe_errors_total", code="bad_query") == 1
    assert value(registry, "searchpipe_degradations_total", stage="tokenize", reason="deadline") == 1
    assert value(registry, "searchpipe_query_seconds_count") == 5
    for stage in pipeline.stages:
        assert value(registry, "searchpipe_stage_seconds_count", stage=stage.name) == 5
    scored = sum(span.units for answer in answers for span in answer.trace.spans)
    assert scored > 0
    assert value(registry, "searchpipe_scored_pairs_sum") == scored
    total = sum(answer.trace.total_ms for answer in answers) / 1e3
    assert (value(registry, "searchpipe_query_seconds_sum") or 0) >= total


def test_what_admission_decided() -> None:
    registry = CollectorRegistry()
    with Pipeline(
        [recall(seconds=0.005), page()], config=load_config({"pipeline": {"threads": 1}})
    ) as pipeline:
        watch(pipeline, registry, gpu=False)
        assert value(registry, "searchpipe_admitted_total", service="full") is None  # nobody has asked yet

        async def ask() -> list[Any]:
            await pipeline.asearch("first", budget_ms=60_000)
            flood = (pipeline.asearch(f"q{n}", budget_ms=30) for n in range(40))
            return await asyncio.gather(*flood, return_exceptions=True)

        results = asyncio.run(ask())
        answered = sum(not isinstance(result, Exception) for result in results)
        services = ("full", "shortened", "unscored", "lightest")
        assert (
            sum(value(registry, "searchpipe_admitted_total", service=s) or 0 for s in services)
            == answered + 1
        )
        shed = [value(registry, "searchpipe_shed_total", where=w) for w in ("arrival", "waiting")]
        assert sum(shed[n] or 0 for n in range(2)) == 40 - answered > 0
        assert value(registry, "searchpipe_forecasts_total") == answered + 1
        assert (value(registry, "searchpipe_forecast_seconds_total", what="actual") or 0) > 0.005


def test_versions_and_what_each_stage_runs(pipeline: Pipeline) -> None:
    registry = CollectorRegistry()
    watch(pipeline, registry, gpu=False)
    assert pipeline.snapshot is not None
    assert value(registry, "searchpipe_snapshot_info", version=pipeline.snapshot.version) == 1
    assert value(registry, "searchpipe_snapshot_products") == 5
    assert value(registry, "searchpipe_build_info", version=__version__) == 1
    for stage in pipeline.stages:
        assert value(registry, "searchpipe_stage_info", stage=stage.name, settings=stage.describe()) == 1
    assert (value(registry, "searchpipe_in_flight"), value(registry, "searchpipe_waiting")) == (0, 0)


def test_a_registry_takes_one_pipeline(pipeline: Pipeline) -> None:
    registry = CollectorRegistry()
    watch(pipeline, registry, gpu=False)
    with pytest.raises(ValueError, match="searchpipe_queries"):
        watch(pipeline, registry, gpu=False)


def test_units_count_the_stage_that_they_belong_to() -> None:
    def count(work: Any) -> None:
        work.units = 12

    score = Fake("score", ("candidates",), ("candidates",), action=count)
    registry = CollectorRegistry()
    with Pipeline([recall(), score, middle(), page()]) as pipeline:
        watch(pipeline, registry, gpu=False)
        answer = pipeline.search("x")
    assert [span.units for span in answer.trace.spans] == [0, 12, 0, 0]
    assert value(registry, "searchpipe_scored_pairs_sum") == 12


class HostEngine:
    """The C++ scorer over an engine in Python that can be broken."""

    def __init__(self) -> None:
        self.broken = False

    def link(self, name: str) -> Link:
        from searchpipe import _core

        def compute(ids: Any, mask: Any, types: Any, out: Any) -> None:
            if self.broken:
                raise RuntimeError("device lost")
            out[:] = 1.0

        return Link(name, lambda: Opened(_core.HostExecutor(compute, [(4, 16)]), lambda: None, f"{name} 1.0"))


def run(chain: EngineChain, *lengths: int) -> None:
    texts = [np.arange(length, dtype=np.int32) for length in lengths]
    chain.run(lambda scorer: scorer.submit_texts(texts, cls_id=1, sep_id=2, max_tokens=16))


@pytest.fixture
def chained() -> Iterator[tuple[EngineChain, HostEngine, CollectorRegistry]]:
    engine = HostEngine()
    chain = EngineChain([engine.link("first"), HostEngine().link("second")], policy=BreakerPolicy(failures=1))
    gpu = GpuEngines(scorer=types.SimpleNamespace(chain=chain))  # type: ignore[arg-type]
    registry = CollectorRegistry()
    with Pipeline([recall(), page()], gpu=gpu) as pipeline:
        watch(pipeline, registry, gpu=False)
        yield chain, engine, registry
    chain.close()


def test_batches_tokens_and_padding_of_an_engine(chained: Any) -> None:
    chain, _, registry = chained
    run(chain, 3, 5)
    assert value(registry, "searchpipe_engine_requests_total", engine="scorer") == 1
    assert value(registry, "searchpipe_engine_rows_total", engine="scorer") == 2
    assert value(registry, "searchpipe_engine_batches_total", engine="scorer") == 1
    real = value(registry, "searchpipe_engine_real_tokens_total", engine="scorer")
    padded = value(registry, "searchpipe_engine_padded_tokens_total", engine="scorer")
    assert real == 3 + 5 + 2 * 2
    assert padded is not None
    assert padded > real
    for quantile in ("0.5", "0.9", "0.99"):
        assert value(registry, "searchpipe_engine_queue_seconds", engine="scorer", quantile=quantile) >= 0
    assert (
        value(registry, "searchpipe_engine_info", engine="scorer", link="first", description="first 1.0") == 1
    )


def test_a_fallback_is_seen(chained: Any) -> None:
    chain, engine, registry = chained
    assert value(registry, "searchpipe_engine_serving", engine="scorer", link="first") == 1
    engine.broken = True
    with pytest.raises(EngineError):
        run(chain, 3)
    assert chain.wait_until_serving(30)
    assert value(registry, "searchpipe_engine_fallbacks_total", engine="scorer") == 1
    assert value(registry, "searchpipe_engine_serving", engine="scorer", link="first") == 0
    assert value(registry, "searchpipe_engine_serving", engine="scorer", link="second") == 1


def breaker_states(registry: CollectorRegistry, name: str) -> dict[str, float | None]:
    states = ("closed", "open", "half_open")
    return {s: value(registry, "searchpipe_breaker_state", breaker=name, state=s) for s in states}


def test_breakers_of_stages_and_engines_are_seen(chained: Any) -> None:
    chain, engine, registry = chained
    opened = {"closed": 0.0, "open": 1.0, "half_open": 0.0}
    assert breaker_states(registry, "scorer.first")["closed"] == 1.0
    engine.broken = True
    with pytest.raises(EngineError):
        run(chain, 3)
    assert breaker_states(registry, "scorer.first") == opened
    assert value(registry, "searchpipe_breaker_trips_total", breaker="scorer.first") == 1

    def fail(work: Any) -> None:
        raise RuntimeError("broken")

    stages = CollectorRegistry()
    with Pipeline([recall(), middle(fail), page()]) as pipeline:
        watch(pipeline, stages, gpu=False)
        assert breaker_states(stages, "middle")["closed"] == 1.0
        for _ in range(7):
            pipeline.search("x")
        assert breaker_states(stages, "middle") == opened
        assert value(stages, "searchpipe_breaker_trips_total", breaker="middle") == 1
        degraded = {"stage": "middle", "reason": "circuit_open"}
        assert value(stages, "searchpipe_degradations_total", **degraded) == 2


def test_an_engine_that_came_back_was_still_a_fallback(chained: Any) -> None:
    chain, engine, registry = chained
    engine.broken = True
    with pytest.raises(EngineError):
        run(chain, 3)
    assert chain.wait_until_serving(30)
    engine.broken = False
    chain._keeper.breakers[0]._cool_down_s = 0.0
    with chain._keeper._changed:
        chain._keeper._changed.notify_all()
    limit = time.monotonic() + 30
    while chain.serving != "first":
        assert time.monotonic() < limit
        run(chain, 3)
    assert value(registry, "searchpipe_engine_fallbacks_total", engine="scorer") == 1
    assert value(registry, "searchpipe_engine_returns_total", engine="scorer") == 1


def test_a_closed_engine_breaks_no_scrape(chained: Any) -> None:
    chain, _, registry = chained
    chain.close()
    assert b"searchpipe_engine_serving" in generate_latest(registry)
    assert value(registry, "searchpipe_engine_requests_total", engine="scorer") is None


class Index:
    max_k = 10

    def check(self, lookup: Any) -> None:
        pass

    def search_batch(self, lookups: list[Any]) -> list[Found]:
        return [Found(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in lookups]

    def finish(self, lookup: Any, found: Any) -> Any:
        return np.empty(0, np.int32), np.empty(0, np.float32)


def test_recall_on_a_gpu_is_counted() -> None:
    index = types.SimpleNamespace(reason="")
    dispatcher = Dispatcher(Index())  # type: ignore[arg-type]
    gpu = GpuEngines(recall=types.SimpleNamespace(dispatcher=dispatcher, index=index))  # type: ignore[arg-type]
    registry = CollectorRegistry()
    with Pipeline([recall(), page()], gpu=gpu) as pipeline:
        watch(pipeline, registry, gpu=False)
        dispatcher.search(np.zeros(3, np.float32), 3)
        assert value(registry, "searchpipe_recall_searches_total") == 1
        assert value(registry, "searchpipe_recall_lookups_total") == 1
        assert value(registry, "searchpipe_recall_on_gpu") == 1
        index.reason = "CUDA error 700"
        assert value(registry, "searchpipe_recall_on_gpu") == 0


class Nvml:
    """The functions of pynvml that are used, with their names and results; GPU 1 cannot tell its load."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "GPU of the test"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return types.SimpleNamespace(used=3 << 30, total=8 << 30, free=5 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle:
            raise self.NVMLError("Not Supported")
        return types.SimpleNamespace(gpu=42, memory=10)


def test_gpus_by_nvml() -> None:
    registry = CollectorRegistry()
    registry.register(GpuCollector(Nvml()))
    labels = {"gpu": "0", "name": "GPU of the test"}
    assert value(registry, "searchpipe_gpu_memory_used_bytes", **labels) == 3 << 30
    assert value(registry, "searchpipe_gpu_memory_total_bytes", **labels) == 8 << 30
    assert value(registry, "searchpipe_gpu_utilisation_ratio", **labels) == 0.42
    other = {**labels, "gpu": "1"}
    assert value(registry, "searchpipe_gpu_memory_used_bytes", **other) == 3 << 30
    assert value(registry, "searchpipe_gpu_utilisation_ratio", **other) is None


def test_nvml_has_the_functions_that_are_used() -> None:
    real = pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    for name in dir(Nvml):
        if name.lower().startswith("nvml"):
            assert hasattr(real, name)


def test_no_gpu_is_no_error() -> None:
    class Without(Nvml):
        def nvmlInit(self) -> None:  # noqa: N802
            raise self.NVMLError("Driver Not Loaded")

    registry = CollectorRegistry()
    registry.register(GpuCollector(Without()))
    assert b"searchpipe_gpu_memory_used_bytes{" not in generate_latest(registry)


def test_without_the_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingDependencyError, match=r"searchpipe\[metrics\]"):
        watch(pipeline)
