"""``searchpipe compare``: two configurations, snapshots or engines on one query log."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchpipe.cli.replay import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

    from searchpipe.replay.compare_figures import ComparisonReport

_LIMITS = "Limits: exit code 1 if B does not keep one"


def compare_command(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            show_default=False,
            help="TOML file, snapshot folder, engine:NAME, table.key=VALUE, or several of them with commas; "
            "or a URL.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", show_default=False, help="Likewise.")],
    log: Annotated[Path, typer.Option("--log", help="Query log: .jsonl or .csv, also .gz.")],
    snapshot: Annotated[
        Path | None, typer.Option("--snapshot", "-s", help="Of a side that names none.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML configuration of a side that names none.")
    ] = None,
    queries: Annotated[
        int, typer.Option("--queries", help="At most so many of the log, drawn evenly.")
    ] = 10_000,
    warm_up: Annotated[int, typer.Option("--warm-up", help="First queries that are not measured.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw, the order and the intervals.")] = 0,
    k: Annotated[int | None, typer.Option("-k", help="Hits of queries that name no k.")] = None,
    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", help="Of queries that name none; 0 for no limit.")
    ] = None,
    persistence: Annotated[float, typer.Option("--rbo-p", help="Persistence of the overlap.")] = 0.9,
    shown: Annotated[int, typer.Option("--shown", help="Most changed queries in the report.")] = 20,
    max_broken_share: Annotated[
        float, typer.Option("--max-broken-share", help="Refuse a log with more broken lines.")
    ] = 0.05,
    max_p99_increase: Annotated[
        float | None, typer.Option(rich_help_panel=_LIMITS, help="Relative: 0.1 for 10%.")
    ] = None,
    max_p50_increase: Annotated[float | None, typer.Option(rich_help_panel=_LIMITS, help="Relative.")] = None,
    max_ndcg_loss: Annotated[
        float | None, typer.Option(rich_help_panel=_LIMITS, help="Absolute; needs labels.")
    ] = None,
    max_rr_loss: Annotated[
        float | None, typer.Option(rich_help_panel=_LIMITS, help="Absolute; needs clicks.")
    ] = None,
    min_rbo: Annotated[
        float | None, typer.Option(rich_help_panel=_LIMITS, help="Mean overlap of the pages, 0 to 1.")
    ] = None,
    max_failed_increase: Annotated[
        float, typer.Option(rich_help_panel=_LIMITS, help="Of the share without an answer.")
    ] = 0.001,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for compare.html and compare.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress line.")] = False,
) -> None:
    """Compare two sides on one log: each query goes to both, one after the other in random order.

    Latency is that of a query alone on the machine. Exit code 0: B keeps every limit; 1: it does
    not; 2: it could not run; 130: interrupted.
    """
    import msgspec
    from rich.console import Console

    from searchpipe.replay.compare import ComparePlan, compare_sides
    from searchpipe.replay.compare_html import comparison_html
    from searchpipe.replay.reader import ReadSettings
    from searchpipe.replay.report import make_folder, write_files
    from searchpipe.replay.sides import parse_side
    from searchpipe.replay.verdict import Thresholds
    from searchpipe.settings import convert

    limits = {
        "max_p99_increase": max_p99_increase,
        "max_p50_increase": max_p50_increase,
        "max_ndcg_loss": max_ndcg_loss,
        "max_rr_loss": max_rr_loss,
        "min_rbo": min_rbo,
        "max_failed_increase": max_failed_increase,
    }
    read = {"needs_time": False, "max_broken_share": max_broken_share}
    plan = ComparePlan(
        queries,
        warm_up,
        seed,
        persistence,
        shown,
        convert(limits, Thresholds, where="limits"),
        convert(read, ReadSettings, where="log"),
    )
    first, second = (parse_side(text, snapshot=snapshot, config=config) for text in (a, b))
    errors = Console(stderr=True)
    budget = math.inf if budget_ms == 0 else budget_ms
    if out is not None:
        make_folder(out)
    with ExitStack() as opened:
        targets = []
        for side in (first, second):
            targets.append(side.open(k=k, budget_ms=budget))
            opened.callback(targets[-1].close)
        tell = opened.enter_context(_Bar(None if quiet else errors))
        try:
            report = compare_sides(log, (first.name, second.name), (targets[0], targets[1]), plan, tell=tell)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    content = msgspec.to_builtins(report)
    if out is not None:
        files = write_files(out, "compare", content, comparison_html(report))
        errors.print(f"Written: {files.html} and {files.json}", soft_wrap=True, markup=False, highlight=False)
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        print_comparison(Console(), report)
    raise typer.Exit(INTERRUPTED if report.interrupted else int(not report.passed))


class _Bar:
    """A progress bar over the queries; none without a console."""

    def __init__(self, console: Console | None) -> None:
        self._bar: Any = None
        if console is None:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("Comparing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Any:
        if self._bar is None:
            return None
        self._bar.start()
        return lambda done, total: self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def print_comparison(console: Console, report: ComparisonReport) -> None:
    """The differences and the verdict as tables for people."""
    from rich.markup import escape
    from rich.table import Table

    from searchpipe.replay.compare_html import interval, measures
    from searchpipe.report.axes import number

    console.print(f"A: {escape(report.a.name)}\nB: {escape(report.b.name)}", highlight=False)
    table = Table(
        title=f"{report.whole.queries:,} queries, paired", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("")
    for head in ("A", "B", "B - A", "95% interval", "better", "worse"):
        table.add_column(head, justify="right")
    for name, d in measures(report.whole):
        cells = [number(value) if value is not None else "–" for value in (d.a, d.b, d.difference)]
        table.add_row(name, *cells, interval(d.low, d.high), f"{d.better:,}", f"{d.worse:,}")
    console.print(table)
    overlap = report.whole.overlap
    if overlap.mean is not None:
        console.print(
            f"Overlap of the pages (RBO): {overlap.mean:.3f}, "
            f"{overlap.same_pages:,} of {overlap.queries:,} are the same."
        )
    for row in report.changed[:5]:
        console.print(f"  changed: {row.query} (overlap {row.rbo:.3f})", markup=False, highlight=False)
    for check in report.checks:
        sign, style = ("kept", "green") if check.passed else ("not kept", "red")
        sure = "" if check.certain else ", by chance perhaps: the interval holds the limit"
        found = "nothing" if check.value is None else number(check.value)
        console.print(
            f"{check.name}: {found}, limit {check.limit:g}: {sign}{sure}", style=style, highlight=False
        )
