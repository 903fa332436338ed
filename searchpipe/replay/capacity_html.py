"""A capacity search's report as one HTML page."""

from __future__ import annotations

import math

from searchpipe.replay.capacity import Capacity, CapacityReport
from searchpipe.replay.report_html import percent
from searchpipe.report.axes import number
from searchpipe.report.html import Cell, Section, facts, figure, page, paragraph, table
from searchpipe.report.svg import Mark, Series, Words, line_plot


def capacity_html(report: CapacityReport) -> str:
    """The page; nothing is fetched by it."""
    lead = paragraph(said(report.capacity, report.settings.p99_ms))
    if report.interrupted:
        lead += paragraph("The search was interrupted; this is what was seen until then.")
    runs = [run for step in report.capacity.steps for run in step.runs]
    rates = [run.rate for run in runs]
    target = report.settings.p99_ms
    marks = [Mark(report.capacity.rate, "capacity")] if report.capacity.rate is not None else []
    plot = line_plot(
        [
            Series("P99", rates, [math.nan if run.p99_ms is None else run.p99_ms for run in runs]),
            Series("target", [min(rates, default=0.0), max(rates, default=1.0)], [target, target]),
        ],
        Words("P99 by rate", "One point a run, and the target.", "queries/s", "P99, ms"),
        marks=marks,
    )
    good = line_plot(
        [
            Series("answered", rates, [run.answered_per_s for run in runs]),
            Series("within the target", rates, [run.good_per_s for run in runs]),
        ],
        Words("Throughput by rate", "Answers a second by arrival rate.", "queries/s", "answers/s"),
        marks=marks,
    )
    rows: list[list[Cell]] = [
        [
            run.rate,
            run.queries,
            run.answered_per_s,
            run.p50_ms,
            run.p99_ms,
            percent(run.failed_share),
            percent(run.degraded_share),
            percent(run.cached_share),
            run.start_lag_p99_ms,
            run.holds,
        ]
        for run in runs
    ]
    head = [
        "rate, queries/s",
        "queries",
        "answered/s",
        "P50 ms",
        "P99 ms",
        "no answer",
        "degraded",
        "out of the result cache",
        "P99 of the wait for a caller, ms",
        "holds",
    ]
    sections = [
        Section("runs", "Runs", [figure(plot, "P99 of each run."), figure(good, "Answers a second.")]),
        Section("table", "All runs", [table(head, rows, caption="By rate")]),
        Section("run", "How it was measured", [_run(report)]),
    ]
    return page("Capacity", lead, sections)


def said(capacity: Capacity, p99_ms: float) -> str:
    """The result in a sentence."""
    target = f"P99 <= {number(p99_ms)} ms"
    if capacity.rate is None:
        return f"No rate holds {target}."
    p99s = ", ".join(f"{value:.1f}" for value in capacity.p99_ms)
    runs = f"{capacity.holding_runs} of {len(capacity.p99_ms)} runs hold it: P99 {p99s} ms"
    beyond = (
        "the highest rate that was tried"
        if capacity.fails_at is None
        else f"{number(capacity.fails_at)} queries/s does not"
    )
    return f"{number(capacity.rate)} queries/s hold {target} ({runs}); {beyond}."


def _run(report: CapacityReport) -> str:
    return facts(
        {
            "started": report.started,
            "searchpipe": report.searchpipe,
            "machine": report.machine,
            "target": report.target,
            "log": report.log,
            "a run": f"{report.run_s:g} s after {report.warm_up_s:g} s of warm-up, Poisson arrivals",
            "runs at a rate": report.settings.repeats,
            "most queries without an answer": percent(report.settings.max_failed_share),
            "most degraded answers": percent(report.settings.max_degraded_share),
        }
    )
