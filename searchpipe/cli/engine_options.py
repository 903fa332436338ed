"""Options and helpers that the commands of ``searchpipe engine`` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from searchpipe.engine.registry import Registry
    from searchpipe.engine.signing import Trust

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
STORE = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the store; default: SEARCHPIPE_STORE, else the user's data folder.",
        show_default=False,
    ),
]
KEY = Annotated[
    Path | None,
    typer.Option(help="Key file; default: SEARCHPIPE_ENGINE_KEY. With one, signatures are required."),
]
CI = Annotated[bool, typer.Option("--ci", help="Refuse unsigned engines, as where CI=true.")]
NAME = Annotated[str, typer.Argument(help="Name of the engine.", show_default=False)]
VERSION = Annotated[str, typer.Argument(help="Version, for example v3; default: the newest.")]


def registry_of(store: Path | None, key: Path | None = None, *, ci: bool = False) -> Registry:
    from searchpipe.engine.registry import Registry

    return Registry(store, trust=_trust(key, ci=ci))


def _trust(key: Path | None, *, ci: bool) -> Trust:
    from searchpipe.engine.signing import Trust
    from searchpipe.engine.signing_keys import load_key

    return Trust.choose([load_key(key)] if key else [], ci=ci)


def absolute(path: Path | None) -> Path | None:
    return path.absolute() if path else None


def figures_json(gates: dict[str, Any]) -> list[dict[str, Any]]:
    import msgspec

    from searchpipe.engine.figures import figures_of

    return [msgspec.to_builtins(row) for row in figures_of(gates)]


def progress(line: str) -> None:
    typer.echo(line, err=True)


def silent(_line: str) -> None:
    return
