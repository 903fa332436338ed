"""``searchpipe replay``: a query log against a pipeline or a service, with latency and quality."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchpipe.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from searchpipe.replay.figures import Report
    from searchpipe.replay.run import Callers
    from searchpipe.replay.schedule import Schedule

INTERRUPTED = 130
_LOAD, _LIMITS = "Load", "Limits: exit code 1 if one is not kept"


def replay_command(
    log: Annotated[Path, typer.Argument(help="Query log: .jsonl or .csv, also .gz.", show_default=False)],
    snapshot: Annotated[
        Path | None, typer.Option("--snapshot", "-s", help="Folder that `searchpipe index` wrote.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML configuration.")] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="A service instead, such as http://127.0.0.1:8080.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            "--speed", rich_help_panel=_LOAD, help="Recorded times, so many times as fast. [default: 1]"
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", rich_help_panel=_LOAD, help="Queries a second, Poisson arrivals."),
    ] = None,
    ramp: Annotated[
        str | None,
        typer.Option("--ramp", metavar="A:B", rich_help_panel=_LOAD, help="From A to B queries/s."),
    ] = None,
    callers: Annotated[
        int | None, typer.Option("--callers", rich_help_panel=_LOAD, help="Closed loop with so many callers.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", rich_help_panel=_LOAD, help="Seconds. [default: the log; a ramp: 60]"),
    ] = None,
    repeat: Annotated[
        bool, typer.Option("--repeat", rich_help_panel=_LOAD, help="Begin the log again until --duration.")
    ] = False,
    evenly: Annotated[
        bool, typer.Option("--evenly", rich_help_panel=_LOAD, help="Equal gaps instead of Poisson (--rate).")
    ] = False,
    max_gap: Annotated[
        float | None,
        typer.Option(
            "--max-gap", rich_help_panel=_LOAD, help="Shorten longer gaps of the log (its seconds)."
        ),
    ] = None,
    warm_up: Annotated[
        float, typer.Option("--warm-up", rich_help_panel=_LOAD, help="Seconds at the start not measured.")
    ] = 0.0,
    max_in_flight: Annotated[
        int, typer.Option("--max-in-flight", rich_help_panel=_LOAD, help="Queries at the target at once.")
    ] = 64,
    patience: Annotated[
        float,
        typer.Option("--patience", rich_help_panel=_LOAD, help="Seconds until a waiting query is dropped."),
    ] = 10.0,
    seed: Annotated[int, typer.Option("--seed", rich_help_panel=_LOAD, help="Of Poisson arrivals.")] = 0,
    direct: Annotated[
        bool,
        typer.Option(
            "--direct",
            rich_help_panel=_LOAD,
            help="With --snapshot: search on the callers' threads, past the pipeline's queue.",
        ),
    ] = False,
    k: Annotated[int | None, typer.Option("-k", help="Hits of queries that name no k.")] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option("--budget-ms", help="Of queries that name none; 0 for no limit."),
    ] = None,
    goal_ms: Annotated[
        float | None, typer.Option("--goal-ms", help="Latency that counts as good. [default: the budget]")
    ] = None,
    strata: Annotated[
        bool, typer.Option("--strata/--no-strata", help="Head, torso and tail: reads the log twice.")
    ] = True,
    max_broken_share: Annotated[
        float, typer.Option("--max-broken-share", help="Refuse a log with more broken lines.")
    ] = 0.05,
    max_p99_ms: Annotated[
        float | None, typer.Option("--max-p99-ms", rich_help_panel=_LIMITS, help="P99 of the latency.")
    ] = None,
    max_failed_share: Annotated[
        float | None,
        typer.Option("--max-failed-share", rich_help_panel=_LIMITS, help="Share that got no answer."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for report.html and report.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress line.")] = False,
) -> None:
    """Replay a query log against a pipeline in this process or a service, and report latency and quality.

    Latency counts from the time a query was meant to start. Exit code 0: done; 1: a limit was not
    kept or nothing was answered; 2: it could not run; 130: interrupted (the report is written).
    """
    import msgspec
    from rich.console import Console

    from searchpipe.replay.load import LoadSettings
    from searchpipe.replay.open_target import open_target
    from searchpipe.replay.progress import LiveLine
    from searchpipe.replay.reader import ReadSettings
    from searchpipe.replay.report import make_folder, write_report
    from searchpipe.replay.run import ReplayPlan, replay
    from searchpipe.settings import convert

    load = load_of(
        speed=speed,
        rate=rate,
        ramp=ramp,
        callers=callers,
        duration=duration,
        max_gap=max_gap,
        evenly=evenly,
        seed=seed,
    )
    bounds = {"max_in_flight": max(max_in_flight, callers or 0), "patience_s": patience}
    read = {"needs_time": rate is None and ramp is None and callers is None}
    plan = ReplayPlan(
        load,
        warm_up_s=warm_up,
        goal_ms=goal_ms,
        repeat=repeat or (ramp is not None),
        strata=strata,
        bounds=convert(bounds, LoadSettings, where="load"),
        read=convert({**read, "max_broken_share": max_broken_share}, ReadSettings, where="log"),
    )
    budget = math.inf if budget_ms == 0 else budget_ms
    errors = Console(stderr=True)
    if direct and url is not None:
        raise ConfigError("--direct is of no use with a URL: the service has its own threads.")
    if out is not None:
        make_folder(out)
    target = open_target(
        snapshot=snapshot,
        config=config,
        url=url,
        k=k,
        budget_ms=budget,
        timeout_s=patience,
        queued=not direct,
    )
    try:
        with LiveLine(None if quiet else errors) as line:
            report = replay(log, target, plan, tell=line.tell)
    except KeyboardInterrupt:
        errors.print("Interrupted before the load began.")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        target.close()
    if out is not None:
        files = write_report(out, report)
        errors.print(f"Written: {files.html} and {files.json}", soft_wrap=True, markup=False, highlight=False)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(report), ensure_ascii=False, indent=2))
    else:
        print_report(Console(), report)
    raise typer.Exit(verdict(report, errors, max_p99_ms, max_failed_share))


def load_of(
    *,
    speed: float | None,
    rate: float | None,
    ramp: str | None,
    callers: int | None,
    duration: float | None,
    max_gap: float | None,
    evenly: bool,
    seed: int,
) -> Schedule | Callers:
    """What the options say about when queries start.

    Raises:
        ConfigError: options that exclude each other, or a value outside its limits.
    """
    from searchpipe.replay.run import Callers
    from searchpipe.replay.schedule import Fixed, Ramp, Recorded

    named = {"--speed": speed, "--rate": rate, "--ramp": ramp, "--callers": callers}
    used = [name for name, value in named.items() if value is not None]
    if len(used) > 1:
        raise ConfigError(f"{' and '.join(used)} exclude each other.", cure="Name one of them.")
    end = math.inf if duration is None else duration
    if max_gap is not None and used not in ([], ["--speed"]):
        raise ConfigError(f"--max-gap is of no use with {used[0]}.")
    if evenly and rate is None:
        raise ConfigError("--evenly needs --rate.")
    if rate is not None:
        return Fixed(rate, end, not evenly, seed)
    if ramp is not None:
        first, last = _ends(ramp)
        return Ramp(first, last, 60.0 if duration is None else duration, seed)
    if callers is not None:
        return Callers(callers, end)
    return Recorded(1.0 if speed is None else speed, math.inf if max_gap is None else max_gap, end)


def _ends(ramp: str) -> tuple[float, float]:
    first, colon, last = ramp.partition(":")
    try:
        if colon:
            return float(first), float(last)
    except ValueError:
        pass
    raise ConfigError(f"--ramp {ramp!r} is not two rates.", cure="Such as --ramp 10:200.")


def verdict(
    report: Report, console: Console, max_p99_ms: float | None, max_failed_share: float | None
) -> int:
    """The exit code; says on ``console`` which limit was not kept."""
    whole = report.whole
    broken: list[str] = []
    if not whole.answered:
        broken.append("No query was answered.")
    p99 = whole.latency_ms.p99
    if max_p99_ms is not None and p99 is not None and p99 > max_p99_ms:
        broken.append(f"P99 is {p99:.1f} ms, over {max_p99_ms:g} ms.")
    failed = 1 - whole.answered / whole.queries if whole.queries else 0.0
    if max_failed_share is not None and failed > max_failed_share:
        broken.append(f"{failed:.2%} of the queries got no answer, over {max_failed_share:.2%}.")
    for text in broken:
        console.print(text, style="red", markup=False, highlight=False)
    return INTERRUPTED if report.interrupted else int(bool(broken))


def print_report(console: Console, report: Report) -> None:
    """The main figures as tables for people."""
    from rich.markup import escape
    from rich.table import Table

    from searchpipe.replay.report_html import groups_of, percent

    title = f"{report.load}, {report.duration_s:,.1f} s; latency from the intended start, in ms"
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("queries")
    heads = ("asked", "P50", "P95", "P99", "P99.9", "good/s", "degraded", "nDCG@10", "clicks' RR")
    for head in heads:
        table.add_column(head, justify="right")
    for name, group in groups_of(report):
        q = group.latency_ms
        table.add_row(
            name,
            f"{group.queries:,}",
            *(_cell(value, 1) for value in (q.p50, q.p95, q.p99, q.p999, group.goodput_per_s)),
            percent(group.degraded_share),
            _cell(group.quality.ndcg_at_10, 3),
            _cell(group.quality.rr, 3),
        )
    console.print(table)
    for row in report.degradations[:8]:
        console.print(f"[yellow]degraded[/] {row.share:7.2%}  {escape(f'{row.stage} ({row.reason})')}")
    for code, count in list(report.errors.items())[:8]:
        console.print(f"[red]no answer[/] {count:,}  {escape(code)}")
    log = report.log
    if log.broken:
        console.print(f"[yellow]{log.broken:,} of {log.lines:,} lines of the log are broken:[/]")
        for line in log.first_broken[:5]:
            console.print(f"  line {line.line}: {line.reason}", markup=False, highlight=False)
    if report.interrupted:
        console.print(f"Interrupted; {report.not_started:,} queries had arrived and were not started.")


def _cell(value: Any, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
