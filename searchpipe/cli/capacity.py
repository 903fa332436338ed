"""``searchpipe capacity``: the highest rate that holds a P99 target."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchpipe.cli.replay import INTERRUPTED

if TYPE_CHECKING:
    from searchpipe.replay.capacity import Run


def capacity_command(
    log: Annotated[Path, typer.Argument(help="Query log: .jsonl or .csv, also .gz.", show_default=False)],
    p99_ms: Annotated[float, typer.Option("--p99-ms", help="Target, from the intended start.")],
    snapshot: Annotated[
        Path | None, typer.Option("--snapshot", "-s", help="Folder that `searchpipe index` wrote.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML configuration.")] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="A service instead, such as http://127.0.0.1:8080.")
    ] = None,
    start_rate: Annotated[float, typer.Option("--start-rate", help="First rate, in queries/s.")] = 10.0,
    max_rate: Annotated[float, typer.Option("--max-rate", help="Highest rate tried.")] = 100_000.0,
    min_rate: Annotated[
        float | None, typer.Option("--min-rate", help="Exit code 1 if the capacity is lower.")
    ] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Relative width of the answer.")] = 0.05,
    repeats: Annotated[int, typer.Option("--repeats", help="Runs at a rate, odd; a majority decides.")] = 3,
    run_s: Annotated[float, typer.Option("--seconds", help="Length of one run.")] = 10.0,
    warm_up: Annotated[float, typer.Option("--warm-up", help="Seconds before it, not measured.")] = 2.0,
    max_failed_share: Annotated[
        float, typer.Option("--max-failed-share", help="Of queries without an answer.")
    ] = 0.001,
    max_degraded_share: Annotated[
        float, typer.Option("--max-degraded-share", help="Of degraded answers.")
    ] = 1.0,
    max_in_flight: Annotated[
        int, typer.Option("--max-in-flight", help="Queries at the target at once.")
    ] = 64,
    patience: Annotated[
        float | None,
        typer.Option(
            "--patience", help="Seconds until a waiting query is dropped. [default: 10 times the target]"
        ),
    ] = None,
    k: Annotated[int | None, typer.Option("-k", help="Hits of queries that name no k.")] = None,
    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", help="Of queries that name none; 0 for no limit.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of queries and arrivals.")] = 0,
    max_broken_share: Annotated[
        float, typer.Option("--max-broken-share", help="Refuse a log with more broken lines.")
    ] = 0.05,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for capacity.html and capacity.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line for each run.")] = False,
) -> None:
    """Find the highest rate of Poisson arrivals at which P99 stays within the target.

    Doubles the rate until it fails, bisects, and repeats the runs at the answer. Exit code 0: found;
    1: no rate holds, or one below --min-rate; 2: it could not run; 130: interrupted.
    """
    import msgspec
    from rich.console import Console

    from searchpipe.replay.capacity import CapacitySettings
    from searchpipe.replay.capacity_html import capacity_html, said
    from searchpipe.replay.capacity_run import measure_capacity
    from searchpipe.replay.load import LoadSettings
    from searchpipe.replay.open_target import open_target
    from searchpipe.replay.reader import ReadSettings
    from searchpipe.replay.report import make_folder, write_files
    from searchpipe.settings import convert

    search = {
        "p99_ms": p99_ms,
        "start_rate": start_rate,
        "max_rate": max_rate,
        "tolerance": tolerance,
        "repeats": repeats,
        "max_failed_share": max_failed_share,
        "max_degraded_share": max_degraded_share,
    }
    settings = convert(search, CapacitySettings, where="capacity")
    # What waited ten times the target has decided the run; waiting longer would only prolong it.
    patience = min(3600.0, max(1.0, p99_ms / 100)) if patience is None else patience
    bounds = convert({"max_in_flight": max_in_flight, "patience_s": patience}, LoadSettings, where="load")
    read = convert({"needs_time": False, "max_broken_share": max_broken_share}, ReadSettings, where="log")
    errors = Console(stderr=True)
    budget = math.inf if budget_ms == 0 else budget_ms
    if out is not None:
        make_folder(out)
    target = open_target(
        snapshot=snapshot,
        config=config,
        url=url,
        k=k,
        budget_ms=budget,
        timeout_s=patience,
        queued=True,
    )

    def tell(run: Run) -> None:
        if not quiet:
            errors.print(_line(run), markup=False, highlight=False, soft_wrap=True)

    try:
        report = measure_capacity(
            log,
            target,
            settings,
            run_s=run_s,
            warm_up_s=warm_up,
            bounds=bounds,
            read=read,
            seed=seed,
            told=tell,
        )
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        target.close()
    content = msgspec.to_builtins(report)
    if out is not None:
        files = write_files(out, "capacity", content, capacity_html(report))
        errors.print(f"Written: {files.html} and {files.json}", soft_wrap=True, markup=False, highlight=False)
    typer.echo(
        json.dumps(content, ensure_ascii=False, indent=2) if as_json else said(report.capacity, p99_ms)
    )
    rate = report.capacity.rate
    short = rate is None or (min_rate is not None and rate < min_rate)
    raise typer.Exit(INTERRUPTED if report.interrupted else int(short))


def _line(run: Run) -> str:
    p99 = "-" if run.p99_ms is None else f"{run.p99_ms:,.1f} ms"
    lost = f", {run.failed_share:.2%} without an answer" if run.failed_share else ""
    verdict = "holds" if run.holds else "does not hold"
    return f"{run.rate:10,.1f} queries/s: P99 {p99}{lost}, {run.degraded_share:.1%} degraded: {verdict}"
