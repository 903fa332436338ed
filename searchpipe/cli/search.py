"""``searchpipe search``: one query, a page that a person can read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchpipe.cli.filters import parse_expressions

if TYPE_CHECKING:
    from rich.console import Console

    from searchpipe.page import Hit, Page


def search_command(
    text: Annotated[str, typer.Argument(help="What to search for.")],
    snapshot: Annotated[Path, typer.Option("--snapshot", "-s", help="Folder that `searchpipe index` wrote.")],
    k: Annotated[int, typer.Option("-k", help="Hits on the page.")] = 10,
    budget_ms: Annotated[
        float | None,
        typer.Option("--budget-ms", help="Milliseconds; 0 for no limit. [default: the configuration's]"),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", "-f", help="Such as 'price<=50' or 'brand=Acme'; may be repeated."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML configuration.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Also show what each stage did.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the page as JSON.")] = False,
) -> None:
    """Search a snapshot and print the page: rank, title, price, brand, scores."""
    from searchpipe.pipeline import Pipeline

    wanted = parse_expressions(filters or [])
    with Pipeline.open(snapshot, config) as pipeline:
        pipeline.warm_up()
        page = pipeline.search(text, k, math.inf if budget_ms == 0 else budget_ms, wanted)
    if as_json:
        typer.echo(json.dumps(_json_ready(page), ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    console = Console()
    print_page(console, page)
    if trace:
        print_trace(console, page)


def print_page(console: Console, page: Page) -> None:
    """The hits as a table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(page.query), title_justify="left", expand=True)
    for name in ("#", "Title", "Price", "Brand", "Score"):
        table.add_column(
            name,
            justify="left" if name in ("Title", "Brand") else "right",
            overflow="ellipsis",
            no_wrap=True,
            ratio=6 if name == "Title" else None,
        )
    table.add_column("Why", ratio=4, overflow="fold")
    for hit in page:
        table.add_row(
            str(hit.rank),
            escape(str(hit.fields.get("title", hit.id))),
            _price(hit),
            escape(str(hit.fields.get("brand") or "")),
            f"{hit.score:.3f}",
            escape("; ".join(hit.reasons)),
        )
    console.print(table)
    if not len(page):
        console.print("Nothing found.")
    limit = "no limit" if math.isinf(page.trace.budget_ms) else f"{page.trace.budget_ms:g} ms"
    console.print(f"{page.trace.total_ms:.1f} ms of {limit}, snapshot {page.snapshot}")
    for degradation in page.degradations:
        console.print(
            f"[yellow]given up[/] {escape(degradation.given_up)} ({degradation.stage}: {degradation.reason})"
        )


def print_trace(console: Console, page: Page) -> None:
    """The stages as a table with bars."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Trace", title_justify="left")
    table.add_column("Stage")
    for name in ("Start ms", "ms", "In", "Out"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("Decision", overflow="fold")
    total = max(page.trace.total_ms, 1e-9)
    for span in page.trace.spans:
        left, width = round(24 * span.start_ms / total), max(1, round(24 * span.ms / total))
        table.add_row(
            span.stage,
            f"{span.start_ms:.2f}",
            f"{span.ms:.2f}",
            str(span.n_in),
            str(span.n_out),
            " " * left + "█" * width,
            escape(span.decision),
        )
    console.print(table)


def _price(hit: Hit) -> str:
    price = hit.fields.get("price")
    return f"{price:,.2f}" if isinstance(price, int | float) else ""


def _json_ready(page: Page) -> dict[str, object]:
    """The page as JSON allows it: no limit is null, for JSON has no infinity."""
    out = page.to_dict()
    if math.isinf(page.trace.budget_ms):
        out["trace"]["budget_ms"] = None
    out["extras"] = {}
    return out
