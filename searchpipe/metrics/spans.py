"""OpenTelemetry spans: one a query, one a stage in it. Needs the extra ``otel``."""

from __future__ import annotations

import math
import time
from typing import Any

from searchpipe import __version__
from searchpipe.catalog.optional import require
from searchpipe.metrics.observer import code_of
from searchpipe.page import Page


class SpanObserver:
    """Records each query as spans, under the span that is current where the query was asked.

    Any thread may call anything. The spans are made when the query is over, with the times of its trace.

    Args:
        provider: an OpenTelemetry TracerProvider; the global one if None.
        texts: put what was typed into the attribute ``searchpipe.query``.

    Raises:
        MissingDependencyError: opentelemetry-api is not installed.
    """

    def __init__(self, provider: Any | None = None, *, texts: bool = False) -> None:
        self._trace = require("opentelemetry.trace", "otel")
        self._tracer = self._trace.get_tracer("searchpipe", __version__, tracer_provider=provider)
        self._texts = texts

    def answered(self, page: Page) -> None:
        """Record an answer."""
        trace = page.trace
        end = time.time_ns()
        begin = end - _ns(trace.total_ms)
        attributes: dict[str, Any] = {
            "searchpipe.hits": len(page),
            "searchpipe.snapshot": page.snapshot,
            "searchpipe.cached": page.cached,
            "searchpipe.degraded": [f"{d.stage}:{d.reason}" for d in page.degradations],
        }
        if math.isfinite(trace.budget_ms):
            attributes["searchpipe.budget_ms"] = trace.budget_ms
        if self._texts:
            attributes["searchpipe.query"] = page.query
        whole = self._tracer.start_span("searchpipe.search", start_time=begin, attributes=attributes)
        if whole.is_recording():
            inside = self._trace.set_span_in_context(whole)
            for span in trace.spans:
                start = begin + _ns(span.start_ms)
                self._tracer.start_span(
                    f"searchpipe.{span.stage}",
                    context=inside,
                    start_time=start,
                    attributes={
                        "searchpipe.in": span.n_in,
                        "searchpipe.out": span.n_out,
                        "searchpipe.decision": span.decision,
                    },
                ).end(start + _ns(span.ms))
        whole.end(end)

    def refused(self, text: object, error: BaseException) -> None:
        """Record a query that ended without a page."""
        span = self._tracer.start_span("searchpipe.search", attributes={"error.type": code_of(error)})
        if self._texts:
            span.set_attribute("searchpipe.query", str(text)[:256])
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, code_of(error)))
        span.end()


def _ns(milliseconds: float) -> int:
    return int(milliseconds * 1e6)
