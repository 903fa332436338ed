"""A replay's report as one HTML page with its plots."""

from __future__ import annotations

import math
from collections.abc import Sequence

from searchpipe.replay.figures import Group, Interval, Report
from searchpipe.report.axes import number
from searchpipe.report.html import Cell, Section, details, facts, figure, page, paragraph, table
from searchpipe.report.svg import Mark, Series, Words, bar_plot, line_plot
from searchpipe.report.waterfall import Part, waterfall

_NAN = math.nan


def report_html(report: Report) -> str:
    """The page; nothing is fetched by it."""
    whole = report.whole
    lead = paragraph(
        f"{whole.queries:,} queries of {report.log.path} in {report.duration_s:,.1f} s "
        f"({report.load}): P50 {ms(whole.latency_ms.p50)}, P99 {ms(whole.latency_ms.p99)}, "
        f"P99.9 {ms(whole.latency_ms.p999)} from the intended start; "
        f"{whole.goodput_per_s:,.1f} good answers/s."
    )
    if report.interrupted:
        lead += paragraph("The replay was interrupted; these are the figures until then.")
    sections = [
        Section("summary", "Summary", [_summary(report), _outcomes(report)]),
        Section("latency", "Latency", _latency(report)),
        Section("throughput", "Throughput", _throughput(report.timeline)),
        Section("stages", "Stages", _stages(report)),
        Section("degradations", "Degradations", _degradations(report)),
        Section("quality", "Quality", [_quality(report)]),
        Section("padding", "Batches and padding", _padding(report)),
        Section("log", "The log", _log(report)),
        Section("run", "The run", [_run(report)]),
    ]
    return page("Replay of a query log", lead, sections)


def ms(value: float | None) -> str:
    """Milliseconds in words."""
    return "–" if value is None else f"{number(value)} ms"


def groups_of(report: Report) -> list[tuple[str, Group]]:
    """All queries and each stratum that has any."""
    return [("all", report.whole), *((name, group) for name, group in report.strata.items() if group.queries)]


def _summary(report: Report) -> str:
    head = ["queries", "count", "mean", "P50", "P90", "P95", "P99", "P99.9", "max"]
    rows: list[list[Cell]] = []
    for name, group in groups_of(report):
        q = group.latency_ms
        rows.append([name, q.count, q.mean, q.p50, q.p90, q.p95, q.p99, q.p999, q.max])
    return table(head, rows, caption="Latency from the intended start, in milliseconds")


def _outcomes(report: Report) -> str:
    head = ["queries", "asked", "answered/s", "good/s", "within budget", "degraded", "shed", "errors"]
    rows: list[list[Cell]] = []
    for name, group in groups_of(report):
        rows.append(
            [
                name,
                group.queries,
                group.throughput_per_s,
                group.goodput_per_s,
                percent(group.within_budget / group.queries if group.queries else None),
                percent(group.degraded_share),
                group.shed,
                group.errors,
                group.timeouts,
                group.dropped,
            ]
        )
    return table([*head, "timeouts", "dropped"], rows, caption="What came of the queries")


def percent(share: float | None) -> str:
    """A share in words."""
    return "–" if share is None else f"{share:.2%}"


def _latency(report: Report) -> list[str]:
    at = [interval.at_s for interval in report.timeline]
    over_time = line_plot(
        [
            Series("P50", at, [_known(i.p50_ms) for i in report.timeline]),
            Series("P99", at, [_known(i.p99_ms) for i in report.timeline]),
        ],
        Words("Latency over time", "Median and P99 by intended start.", "seconds", "milliseconds"),
        marks=[Mark(report.warm_up_s, "warm-up ends")] if report.warm_up_s else (),
    )
    nines = [point for point in report.curve if point.q < 1]
    curve = line_plot(
        [Series("latency", [-math.log10(1 - p.q) for p in nines], [p.ms for p in nines])],
        Words(
            "Quantile curve",
            "Latency by quantile, each step to the right a tenth of the queries.",
            "nines of the quantile: 1 is P90, 2 is P99, 3 is P99.9",
            "milliseconds",
        ),
    )
    lag = report.start_lag_ms
    return [
        figure(over_time, "Latency over time, by intended start."),
        figure(curve, "Latency by quantile, as far as ten queries lie beyond it."),
        paragraph(
            f"Queries were sent P50 {ms(lag.p50)}, P99 {ms(lag.p99)}, at most {ms(lag.max)} after their "
            "intended start; that wait is part of the latency."
        ),
    ]


def _throughput(timeline: Sequence[Interval]) -> list[str]:
    whole = max((interval.width_s for interval in timeline), default=0.0)
    # Answers that fall into the last sliver of time would be a rate that never was.
    timeline = [interval for interval in timeline if interval.width_s >= whole / 2]
    at = [interval.at_s for interval in timeline]
    rates = line_plot(
        [
            Series("arrived", at, [i.arrived_per_s for i in timeline]),
            Series("answered", at, [i.answered_per_s for i in timeline]),
            Series("good", at, [i.good_per_s for i in timeline]),
        ],
        Words("Rates over time", "Queries a second.", "seconds", "queries/s"),
    )
    known = sorted((i.arrived_per_s, i.p99_ms) for i in timeline if i.p99_ms is not None)
    # Points alone: their neighbours by rate are not their neighbours in time.
    xs = [value for rate, _ in known for value in (rate, _NAN)]
    ys = [value for _, p99 in known for value in (p99, _NAN)]
    against = line_plot(
        [Series("P99", xs, ys)],
        Words("Throughput against P99", "One point an interval.", "queries/s that arrived", "P99, ms"),
    )
    return [
        figure(rates, "Queries a second that arrived, were answered, and were answered within the budget."),
        figure(against, "P99 by arrival rate; a ramp shows where it breaks off."),
    ]


def _stages(report: Report) -> list[str]:
    parts = [
        Part(s.stage, s.start_ms, s.ms.mean or 0.0, s.ms.p99 if s.ms.p99 is not None else _NAN)
        for s in report.stages
    ]
    if not parts:
        return [paragraph("The answers carried no traces.")]
    plot = waterfall(
        parts, Words("Stage waterfall", "Mean start and time of each stage.", "milliseconds", "")
    )
    rows: list[list[Cell]] = [
        [s.stage, s.start_ms, s.ms.mean, s.ms.p50, s.ms.p99, s.ms.p999, s.ms.max] for s in report.stages
    ]
    return [
        figure(plot, "Mean start and mean time of each stage; the thin line ends at its P99."),
        table(
            ["stage", "start", "mean", "P50", "P99", "P99.9", "max"], rows, caption="Stages, in milliseconds"
        ),
    ]


def _degradations(report: Report) -> list[str]:
    if not report.degradations:
        return [paragraph("No answer was degraded.")]
    labels = [f"{row.stage}: {row.reason}" for row in report.degradations]
    plot = bar_plot(
        labels[:20],
        [100 * row.share for row in report.degradations[:20]],
        Words("Degradations", "Share of the answers by stage and reason.", "% of the answers", ""),
    )
    rows: list[list[Cell]] = [
        [r.stage, r.reason, r.queries, percent(r.share), percent(r.amount)] for r in report.degradations
    ]
    return [
        figure(plot, "Share of the answers that gave something up."),
        table(["stage", "reason", "answers", "share", "mean amount given up"], rows, caption="Degradations"),
    ]


def _quality(report: Report) -> str:
    rows: list[list[Cell]] = []
    for name, group in groups_of(report):
        q = group.quality
        rows.append([name, q.labelled, q.ndcg_at_10, q.recall, q.clicked, q.rr])
    if not (report.whole.quality.labelled or report.whole.quality.clicked):
        return paragraph("The log holds no labels and no clicks.")
    return table(
        ["queries", "labelled", "nDCG@10", "recall of the page", "with clicks", "reciprocal rank"],
        rows,
        caption="Quality of the answers",
    )


def _padding(report: Report) -> list[str]:
    scorer = report.scorer
    if scorer is None:
        return [paragraph("The target's scorer offers no statistics of its batches.")]
    plot = bar_plot(
        ["text", "padding"],
        [float(scorer.real_tokens), float(max(0, scorer.padded_tokens - scorer.real_tokens))],
        Words("Padding", "Tokens in the scorer's batches.", "tokens", ""),
    )
    return [
        figure(plot, f"{percent(scorer.padding_share)} of the batches was padding."),
        table(
            ["requests", "batches", "rows", "rows a batch", "late rows", "failed batches"],
            [
                [
                    scorer.requests,
                    scorer.batches,
                    scorer.rows,
                    scorer.rows_per_batch,
                    scorer.late_rows,
                    scorer.failed_batches,
                ]
            ],
            caption="Batches of the scorer",
        ),
    ]


def _log(report: Report) -> list[str]:
    log = report.log
    parts = [
        paragraph(
            f"{log.lines:,} lines, {log.entries:,} searches, {log.broken:,} broken; {log.out_of_order:,} out "
            f"of order, of which {log.beyond_window:,} came too late to be sorted in."
        )
    ]
    if log.first_broken:
        rows: list[list[Cell]] = [[b.line, b.reason, b.excerpt] for b in log.first_broken]
        broken = table(["line", "reason", "begins"], rows, caption="The first broken lines")
        reasons = table(["reason", "lines"], [[k, v] for k, v in log.reasons.items()], caption="By reason")
        parts.append(reasons + details("Broken lines", broken))
    return parts


def _run(report: Report) -> str:
    shown = {
        "started": report.started,
        "searchpipe": report.searchpipe,
        "machine": report.machine,
        "target": report.target,
        "snapshots (answers)": report.snapshots,
        "warm-up": f"{report.warm_up_s:g} s, {report.warm_up_queries:,} queries not measured",
        "not started": report.not_started,
        "refusals and errors": report.errors,
    }
    return facts(shown)


def _known(value: float | None) -> float:
    return _NAN if value is None else value
