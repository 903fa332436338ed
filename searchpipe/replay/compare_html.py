"""A comparison's report as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from searchpipe.replay.compare_figures import ChangedQuery, ComparisonReport, GroupComparison, PlacedItem
from searchpipe.replay.paired import Difference
from searchpipe.replay.report_html import ms
from searchpipe.report.axes import number
from searchpipe.report.html import Cell, Raw, Section, details, facts, page, paragraph, table, verdict
from searchpipe.report.svg import Words, bar_plot

_MEASURES = (
    ("latency_mean", "mean latency, ms"),
    ("latency_p50", "P50 latency, ms"),
    ("latency_p99", "P99 latency, ms"),
    ("ndcg_at_10", "nDCG@10"),
    ("recall", "recall of page"),
    ("rr", "RR of clicks"),
)


def comparison_html(report: ComparisonReport) -> str:
    """The page; nothing is fetched by it."""
    lead = table(
        ["check", "limit", "found", "95% interval", "verdict", "certain"],
        [
            [c.name, c.limit, c.value, interval(c.low, c.high), verdict(c.passed), c.certain]
            for c in report.checks
        ],
        caption="Verdict",
    )
    lead = paragraph(f"A: {report.a.name}. B: {report.b.name}. {report.whole.queries:,} queries.") + lead
    if report.interrupted:
        lead += paragraph("The comparison was interrupted; these are the figures until then.")
    sections = [
        Section("differences", "Differences", [differences("All queries", report.whole), _plot(report)]),
        Section(
            "strata",
            "By traffic",
            [differences(name, group) for name, group in report.strata.items() if group.queries],
        ),
        Section("changed", "Queries that changed most", _changed(report.changed)),
        Section("sides", "The sides", [_sides(report)]),
        Section("run", "The run", [_run(report)]),
    ]
    return page("Comparison on a query log", lead, sections)


def interval(low: float | None, high: float | None) -> str:
    """An interval in words."""
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def measures(group: GroupComparison) -> list[tuple[str, Difference]]:
    """The differences that any query has a value for."""
    found: list[tuple[str, Difference]] = [(name, getattr(group, field)) for field, name in _MEASURES]
    return [(name, difference) for name, difference in found if difference.queries]


def differences(title: str, group: GroupComparison) -> str:
    """A table of paired differences."""
    rows: list[list[Cell | Raw]] = []
    for name, d in measures(group):
        relative = "–" if d.relative is None else f"{d.relative:+.1%}"
        rows.append(
            [
                name,
                d.queries,
                d.a,
                d.b,
                d.difference,
                interval(d.low, d.high),
                relative,
                d.p,
                d.better,
                d.worse,
                d.equal,
            ]
        )
    overlap = group.overlap
    head = [
        "measure",
        "queries",
        "A",
        "B",
        "B - A",
        "95% interval",
        "relative",
        "p",
        "better",
        "worse",
        "equal",
    ]
    told = "No page was answered by both."
    if overlap.mean is not None:
        told = (
            f"Pages overlap by {overlap.mean:.3f} (RBO, p = {overlap.p:g}; 95% interval "
            f"{interval(overlap.low, overlap.high)}, the lowest tenth up to {overlap.p10:.3f}); "
            f"{overlap.same_pages:,} of {overlap.queries:,} are the same."
        )
    return table(head, rows, caption=f"{title}: {group.queries:,} queries") + paragraph(told)


def _plot(report: ComparisonReport) -> str:
    shown = [(name, d) for name, d in measures(report.whole) if d.relative is not None]
    return bar_plot(
        [name for name, _ in shown],
        [100 * (d.relative or 0.0) for _, d in shown],
        Words("Relative differences", "B against A with 95% intervals.", "B against A, %", ""),
        low=[_percent(d.relative_low) for _, d in shown],
        high=[_percent(d.relative_high) for _, d in shown],
    )


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def _changed(changed: Sequence[ChangedQuery]) -> list[str]:
    if not changed:
        return [paragraph("No page changed.")]
    parts = []
    for row in changed:
        length = max(len(row.a), len(row.b))
        lines: list[list[Cell | Raw]] = [
            [place + 1, _item(row.a, row.b, place), _item(row.b, row.a, place)] for place in range(length)
        ]
        quality = (
            ""
            if row.a_ndcg is None or row.b_ndcg is None
            else f", nDCG@10 {row.a_ndcg:.3f} and {row.b_ndcg:.3f}"
        )
        caption = f"A in {ms(row.a_ms)}, B in {ms(row.b_ms)}{quality}"
        shown = table(["place", "A", "B"], lines, caption=caption)
        parts.append(details(f"{row.query} (overlap {row.rbo:.3f})", shown))
    return parts


def _item(items: Sequence[PlacedItem], others: Sequence[PlacedItem], place: int) -> Raw:
    if place >= len(items):
        return Raw("–")
    item = items[place]
    there = next((rank for rank, other in enumerate(others, start=1) if other.id == item.id), None)
    moved = "only here" if there is None else "same place" if there == place + 1 else f"there {there}"
    return Raw(f"{escape(item.title)} <small>({escape(item.id)}; {moved})</small>")


def _sides(report: ComparisonReport) -> str:
    return facts(
        {
            name: {
                "is": side.name,
                "answered": side.answered,
                "failed": side.failed,
                "degraded": side.degraded,
                "degradations": side.degradations,
                "out of the result cache": side.cached,
            }
            for name, side in (("A", report.a), ("B", report.b))
        }
    )


def _run(report: ComparisonReport) -> str:
    log = report.log
    return facts(
        {
            "started": report.started,
            "searchpipe": report.searchpipe,
            "machine": report.machine,
            "seed": report.seed,
            "warm-up": f"{report.warm_up_queries} queries not measured",
            "log": f"{log.path}: {log.lines:,} lines, {log.broken:,} broken",
        }
    )
