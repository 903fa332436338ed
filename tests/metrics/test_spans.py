"""OpenTelemetry spans, in memory."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from searchpipe.errors import MissingDependencyError, QueryError
from searchpipe.metrics.spans import SpanObserver
from searchpipe.pipeline import Pipeline
from tests.test_pipeline import page, recall

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="needs opentelemetry-sdk")
export = pytest.importorskip("opentelemetry.sdk.trace.export", reason="needs opentelemetry-sdk")


@pytest.fixture
def recorded() -> Iterator[tuple[Any, Any]]:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def test_a_query_is_a_span_with_its_stages_inside(recorded: Any) -> None:
    provider, exporter = recorded
    with Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(SpanObserver(provider, texts=True))
        answer = pipeline.search("shoes")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"searchpipe.search", "searchpipe.recall", "searchpipe.page"}
    whole = spans["searchpipe.search"]
    assert whole.attributes["searchpipe.query"] == "shoes"
    assert whole.attributes["searchpipe.hits"] == 5
    assert whole.end_time - whole.start_time == pytest.approx(answer.trace.total_ms * 1e6, abs=2)
    for stage in answer.trace.spans:
        inner = spans[f"searchpipe.{stage.stage}"]
        assert inner.parent.span_id == whole.context.span_id
        assert inner.start_time - whole.start_time == pytest.approx(stage.start_ms * 1e6, abs=2)
        assert inner.end_time - inner.start_time == pytest.approx(stage.ms * 1e6, abs=2)


@pytest.mark.parametrize("how", ["search", "asearch"])
def test_it_lies_in_the_span_of_the_caller(recorded: Any, how: str) -> None:
    provider, exporter = recorded
    with Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(SpanObserver(provider))
        with provider.get_tracer("caller").start_as_current_span("request") as request:
            if how == "search":
                pipeline.search("shoes")
            else:
                asyncio.run(pipeline.asearch("shoes"))
    [whole] = [span for span in exporter.get_finished_spans() if span.name == "searchpipe.search"]
    assert whole.parent.span_id == request.get_span_context().span_id
    assert "searchpipe.query" not in whole.attributes


def test_a_refusal_is_a_span_with_an_error(recorded: Any) -> None:
    provider, exporter = recorded
    with Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(SpanObserver(provider))
        with pytest.raises(QueryError):
            pipeline.search("")
    [span] = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "bad_query"
    assert not span.status.is_ok


def test_without_the_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(MissingDependencyError, match=r"searchpipe\[otel\]"):
        SpanObserver()
