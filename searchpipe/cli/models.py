"""``searchpipe models``: list, fetch and verify the built-in models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from searchpipe.models import BUILTIN, DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER
from searchpipe.models.cache import default_cache_dir
from searchpipe.models.inventory import FileCheck, ModelFacts, is_cached, list_builtin, verify_model
from searchpipe.models.resolve import resolve, settings_of
from searchpipe.models.settings import LocalModel

models_app = typer.Typer(help="List, fetch and verify models.", no_args_is_help=True)

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_CACHE = Annotated[
    Path | None,
    typer.Option(
        help="Cache folder; default: SEARCHPIPE_CACHE, else the user's cache folder.", show_default=False
    ),
]


@models_app.command("list")
def list_command(as_json: _JSON = False, cache_dir: _CACHE = None) -> None:
    """Show the built-in models: kind, licence, size, source, and whether they are in the cache."""
    cache = cache_dir or default_cache_dir()
    models = list_builtin(cache)
    if as_json:
        print(json.dumps({"cache": str(cache), "models": [asdict(model) for model in models]}, indent=2))
        return
    _print_models(models)
    print(f"Cache: {cache}")


@models_app.command("fetch")
def fetch_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Built-in models; default: the ones the default pipeline uses.", show_default=False
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All built-in models.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing: only check the cache.")] = False,
    as_json: _JSON = False,
    cache_dir: _CACHE = None,
) -> None:
    """Fetch models into the cache, once; what is there already is checked and kept."""
    chosen = list(BUILTIN) if every else list(names or (DEFAULT_ENCODER, DEFAULT_CROSS_ENCODER))
    for name in chosen:
        settings_of(name)  # refuse a wrong name before the first download
    fetched = _fetch(chosen, cache_dir, offline=offline, quiet=as_json)
    if as_json:
        rows = [
            {
                "name": model.name,
                "model": str(model.model),
                "sha256": model.sha256,
                "tokenizer": str(model.tokenizer),
            }
            for model in fetched
        ]
        print(json.dumps({"models": rows}, indent=2))
        return
    for model in fetched:
        print(f"{model.name}: {model.model}")


@models_app.command("verify")
def verify_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Built-in models; default: all that are in the cache.", show_default=False),
    ] = None,
    as_json: _JSON = False,
    cache_dir: _CACHE = None,
) -> None:
    """Read cached files whole and compare their hashes; exit code 1 if one is missing or changed."""
    cache = cache_dir or default_cache_dir()
    chosen = names or [name for name, builtin in BUILTIN.items() if is_cached(builtin.settings, cache)]
    checks = [check for name in chosen for check in verify_model(name, settings_of(name), cache)]
    good = all(check.state == "ok" for check in checks)
    if as_json:
        print(json.dumps({"ok": good, "files": [asdict(check) for check in checks]}, indent=2))
    elif checks:
        _print_checks(checks)
    else:
        print(f"There is no model in {cache}; `searchpipe models fetch` gets the default ones.")
    raise typer.Exit(0 if good else 1)


def _fetch(names: list[str], cache: Path | None, *, offline: bool, quiet: bool) -> list[LocalModel]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("checking the cache", total=None)

        def progress(what: str, done: int, total: int | None) -> None:
            bars.update(task, description=what, completed=done, total=total)

        return [resolve(name, cache_dir=cache, offline=offline, progress=progress) for name in names]


def _print_models(models: list[ModelFacts]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "kind", "licence", "MB", "cached", "what it is, and its source"):
        last = heading.startswith("what")
        justify: Literal["left", "right"] = "right" if heading == "MB" else "left"
        table.add_column(heading, overflow="fold", no_wrap=not last, justify=justify)
    for model in models:
        # The full source with its hash is in --json; a table has room for package and version.
        what = Text(model.card).append(f"\n{model.source.partition('#')[0]}", style="dim")
        size = f"{model.bytes / 1e6:.0f}"
        table.add_row(model.name, model.kind, model.licence, size, "yes" if model.cached else "no", what)
    Console().print(table)


def _print_checks(checks: list[FileCheck]) -> None:
    for check in checks:
        if check.state == "changed":
            note = f" (SHA-256 {check.found}, expected {check.expected}; remove the file and fetch it again)"
        else:
            note = " (fetch it: searchpipe models fetch)" if check.state == "missing" else ""
        print(f"{check.state:8}{check.model}  {check.file}{note}")
