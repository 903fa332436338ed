"""``searchpipe engine gate``: an engine of the store through its gates again, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchpipe.cli.engine_options import (
    CI,
    JSON,
    KEY,
    NAME,
    STORE,
    VERSION,
    absolute,
    figures_json,
    progress,
    registry_of,
    silent,
)
from searchpipe.cli.engine_tables import print_figures

if TYPE_CHECKING:
    from searchpipe.engine.recipe import Recipe
    from searchpipe.engine.step import Inputs


def gate_command(
    name: NAME,
    version: VERSION = "",
    log: Annotated[Path | None, typer.Option(help="Query log: JSON lines with a 'query' each.")] = None,
    snapshot: Annotated[Path | None, typer.Option(help="Folder of a published snapshot.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Relevance labels (TREC qrels).")] = None,
    store: STORE = None,
    seed: Annotated[int, typer.Option(help="Of the queries drawn, and of the load.")] = 7,
    key: KEY = None,
    ci: CI = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: JSON = False,
) -> None:
    """Gate an engine on this machine by its own recipe; what passes is checked in as a new version.

    For engines that were built on another machine: their TensorRT plans are not used before they have
    passed here. Exit code 1 if nothing passes; the store is then as it was.
    """
    from searchpipe.engine.ranker_rows import open_ranker
    from searchpipe.engine.regate import regate
    from searchpipe.engine.step import Inputs
    from searchpipe.engine.steps.check_in import GatesFailedError

    registry = registry_of(store, key, ci=ci)
    signer = registry.trust.keys[0] if registry.trust.keys else None

    def inputs(recipe: Recipe) -> Inputs:
        return Inputs(recipe, Path.cwd(), absolute(log), absolute(snapshot), absolute(labels), seed)

    say = silent if quiet else progress
    try:
        made = regate(registry, name, version, inputs, key=signer, open_ranker=open_ranker, say=say)
    except GatesFailedError as error:
        refusal = {"checked_in": False, "reason": str(error)}
        print(json.dumps(refusal, indent=2) if as_json else str(error))
        raise typer.Exit(1) from None
    if as_json:
        told = {"name": made.name, "version": made.version, "target": made.target, "chosen": made.chosen}
        figures = figures_json(made.gates)
        passed = {"passed": made.passed()}
        print(json.dumps({"checked_in": True, **told, **passed, "figures": figures}, indent=2))
        return
    print_figures(made.gates)
    print(f"Checked in: {made.name} {made.version} for {made.target} ({made.chosen} was chosen)")
    print(f"Use it: searchpipe engine promote {made.name} {made.version}")
