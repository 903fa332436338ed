"""``searchpipe index``: catalog files into a published snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

if TYPE_CHECKING:
    from rich.console import Console

    from searchpipe.catalog import BuildProgress, BuildReport, Progress

_PHASES = {
    "read": "Reading and encoding",
    "index": "Building the indexes",
    "publish": "Publishing",
    "done": "Done",
}
_REASONS_SHOWN = 5


def index_command(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Files: .jsonl, .jsonl.gz, .csv, .csv.gz, .parquet.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that the snapshot is published in.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="TOML configuration; its [index] and [models] tables count here."
        ),
    ] = None,
    max_reject_share: Annotated[
        float | None,
        typer.Option("--max-reject-share", help="Stop above this share of bad rows, 0 to 1. [default: 0.05]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")] = False,
) -> None:
    """Index a catalog: build a snapshot and publish it; the one published before stays until then."""
    from rich.console import Console

    from searchpipe.catalog import build_snapshot
    from searchpipe.config import load_config

    loaded = load_config(config)
    settings, models = loaded.index, loaded.models
    if max_reject_share is not None:
        settings = msgspec.structs.replace(settings, max_reject_share=max_reject_share)
    if quiet:
        build_snapshot(sources, out, settings, models=models, parallel=True)
        return
    with _Bar(Console(stderr=True)) as progress:
        report = build_snapshot(sources, out, settings, models=models, progress=progress, parallel=True)
    print_report(Console(), report)


class _Bar:
    """A progress bar over the bytes of the sources, with products a second and the time left."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        # Chunks take seconds each: the rate is taken over a minute of them.
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=60.0,
        )
        self._task = self._bar.add_task("Starting", total=None, rows=0, rate=0.0)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _update(self, state: BuildProgress) -> None:
        elapsed = self._bar.tasks[0].elapsed or 0.0
        self._bar.update(
            self._task,
            description=_PHASES[state.phase],
            total=max(1, state.bytes_total),
            completed=state.bytes_read,
            rows=state.rows,
            rate=state.rows / elapsed if elapsed > 0 else 0.0,
        )


def print_report(console: Console, report: BuildReport) -> None:
    """Print what a build did: counts, bad rows by reason, size, time and place."""
    from rich.markup import escape

    rate = report.rows / report.seconds if report.seconds > 0 else 0.0
    console.print(
        f"[bold]{report.documents:,}[/bold] products in {report.seconds:,.1f} s ({rate:,.0f} rows/s), "
        f"{report.bytes / 1e6:,.1f} MB; {report.reused:,} vectors reused."
    )
    if report.rejected:
        share = report.rejected / report.rows
        console.print(f"[yellow]{report.rejected:,} rows rejected[/yellow] ({share:.2%}):")
        for reason, count in sorted(report.reasons.items(), key=lambda item: -item[1])[:_REASONS_SHOWN]:
            console.print(f"  {count:>8,}  {escape(reason)}")
        console.print(f"  each with its line in {escape(str(report.rejects))}", soft_wrap=True)
    for name, count in sorted(report.mistyped.items()):
        console.print(
            f"[yellow]Column {escape(name)}[/yellow]: {count:,} values of another type count as missing."
        )
    console.print(f"Published as {escape(report.name)} in {escape(str(report.path))}", soft_wrap=True)
