"""The command line: ``searchpipe COMMAND``; one module a command, imported when it is used."""

from __future__ import annotations

import io
import sys

import typer

from searchpipe import __version__
from searchpipe.errors import SearchpipeError

app = typer.Typer(
    name="searchpipe",
    help="Embedded product search: index a catalog, search it inside a deadline, measure it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"searchpipe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Embedded product search: index a catalog, search it inside a deadline, measure it."""


def _register() -> None:
    from searchpipe.cli.capacity import capacity_command
    from searchpipe.cli.compare import compare_command
    from searchpipe.cli.doctor import doctor_command
    from searchpipe.cli.engine import engine_app
    from searchpipe.cli.evaluate import evaluate_command
    from searchpipe.cli.index import index_command
    from searchpipe.cli.models import models_app
    from searchpipe.cli.replay import replay_command
    from searchpipe.cli.search import search_command
    from searchpipe.cli.serve import serve_command

    app.command("index")(index_command)
    app.command("search")(search_command)
    app.command("serve")(serve_command)
    app.command("evaluate")(evaluate_command)
    app.command("replay")(replay_command)
    app.command("compare")(compare_command)
    app.command("capacity")(capacity_command)
    app.add_typer(models_app, name="models")
    app.add_typer(engine_app, name="engine")
    app.command("doctor")(doctor_command)


def main() -> None:
    """Run the command line; an error that searchpipe foresees is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a title in a terminal that has not its characters
    _register()
    try:
        app()
    except SearchpipeError as error:
        sys.stderr.write(f"searchpipe: {error}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing more can be said to it.
        sys.stderr.close()
        raise SystemExit(0) from None
