"""``searchpipe engine``: build engines from recipes, and keep the store of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from searchpipe.cli.engine_gate import gate_command
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
from searchpipe.cli.engine_tables import print_built, print_figures, print_list, print_show, print_verified
from searchpipe.errors import RecipeError

engine_app = typer.Typer(
    help="Build gated inference engines from recipes; list, verify, promote, roll back and prune them.",
    no_args_is_help=True,
)


@engine_app.command("build")
def build_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a TOML file.", show_default=False)],
    log: Annotated[Path | None, typer.Option(help="Query log: JSON lines with a 'query' each.")] = None,
    snapshot: Annotated[Path | None, typer.Option(help="Folder of a published snapshot.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Relevance labels (TREC qrels).")] = None,
    store: STORE = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the build; default: one for the recipe in the cache.", show_default=False
        ),
    ] = None,
    start_from: Annotated[
        str, typer.Option("--from", help="Run this step and all after it again, finished or not.")
    ] = "",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Replace a setting of the recipe, e.g. sensitivity.enabled=false; may be repeated.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn that the recipe does not seed.")] = 7,
    key: KEY = None,
    ci: CI = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: JSON = False,
) -> None:
    """Build engines from a recipe and check in what passes its gates; exit code 1 if nothing does.

    A build that was stopped goes on after its last finished step.
    """
    from searchpipe.engine.ranker_rows import open_ranker
    from searchpipe.engine.recipe import load_recipe
    from searchpipe.engine.recipe_overrides import as_toml
    from searchpipe.engine.run import StepFailedError, run_build
    from searchpipe.engine.step import Inputs
    from searchpipe.engine.steps import load_steps
    from searchpipe.engine.steps.check_in import CheckInStep, GatesFailedError
    from searchpipe.models.cache import default_cache_dir

    loaded = load_recipe(recipe, assignments or ())
    registry = registry_of(store, key, ci=ci)
    signer = registry.trust.keys[0] if registry.trust.keys else None
    registry.refuse_unsigned(signer)  # now, not after minutes of work
    folder = out or default_cache_dir() / "builds" / loaded.name
    inputs = Inputs(
        loaded,
        recipe.absolute().parent,
        log=absolute(log),
        snapshot=absolute(snapshot),
        labels=absolute(labels),
        seed=seed,
    )
    # What is signed and kept says what was really built.
    text = as_toml(loaded) if assignments else recipe.read_text(encoding="utf-8")
    steps = load_steps(CheckInStep(registry, text, signer), open_ranker=open_ranker)
    report = folder / "steps" / "report"
    try:
        result = run_build(steps, inputs, folder, start_from=start_from, say=silent if quiet else progress)
    except StepFailedError as error:
        if not isinstance(error.__cause__, GatesFailedError):
            raise
        left = folder / "steps" / "gate" / "gates.json"
        gates = json.loads(left.read_bytes()) if left.is_file() else {}
        if as_json:
            refusal = {"checked_in": False, "reason": str(error.__cause__), "report": str(report)}
            print(json.dumps(refusal | {"figures": figures_json(gates)}, indent=2))
        else:
            print_figures(gates)
            print(f"{error.__cause__}\nReport: {report}")
        raise typer.Exit(1) from None
    facts = dict(result.done["check_in"].facts)
    page = result.done["report"].files.get("html", report)
    gates = dict(result.done["gate"].facts)
    if as_json:
        told = {"report": str(page), "steps": [asdict(state) for state in result.states]}
        print(json.dumps({"checked_in": True, **facts, **told, "figures": figures_json(gates)}, indent=2))
        return
    print_figures(gates)
    print_built(facts, page)


engine_app.command("gate")(gate_command)


@engine_app.command("list")
def list_command(store: STORE = None, as_json: JSON = False) -> None:
    """Show all engines and their versions: what is promoted, for which architecture, and signed by whom."""
    registry = registry_of(store)
    entries = [entry for name in registry.names() for entry in registry.entries(name)]
    if as_json:
        print(
            json.dumps({"store": str(registry.store.root), "engines": [_facts(e) for e in entries]}, indent=2)
        )
        return
    print_list(entries, registry.store.root)


@engine_app.command("show")
def show_command(name: NAME, version: VERSION = "", store: STORE = None, as_json: JSON = False) -> None:
    """Show one version's manifest, the engine's history, and which files this machine would use."""
    import msgspec

    from searchpipe.engine.machine import this_machine
    from searchpipe.errors import RegistryError

    registry = registry_of(store)
    manifest = registry.manifest(name, version)
    history = registry.history(name)
    here: dict[str, Any] = {"machine": this_machine().line()}
    try:
        choice = registry.pick(name)
        here |= {"uses": choice.label, "reasons": list(choice.reasons)}
    except RegistryError as error:
        here |= {"uses": None, "reasons": [str(error)]}
    if as_json:
        content = {"manifest": manifest, "history": history, "here": here}
        print(json.dumps(msgspec.to_builtins(content), indent=2))
        return
    print_show(manifest, history, here, registry.store.folder_of(name, manifest.version))


@engine_app.command("verify")
def verify_command(
    name: Annotated[str, typer.Argument(help="Name of the engine; default: all.")] = "",
    version: Annotated[str, typer.Argument(help="Version; default: all.")] = "",
    store: STORE = None,
    key: KEY = None,
    ci: CI = False,
    as_json: JSON = False,
) -> None:
    """Read every file whole, compare the hashes and check the signature; exit code 1 if one is wrong."""
    registry = registry_of(store, key, ci=ci)
    if version:
        found = [registry.verify(name, version)]
    else:
        names = [name] if name else registry.names()
        found = [registry.verify(n, entry.version) for n in names for entry in registry.entries(n)]
    good = all(verification.ok for verification in found)
    if as_json:
        rows = [asdict(verification) | {"ok": verification.ok} for verification in found]
        print(json.dumps({"ok": good, "engines": rows}, indent=2))
    else:
        print_verified(found, registry.store.root)
    raise typer.Exit(0 if good else 1)


@engine_app.command("promote")
def promote_command(
    name: NAME,
    version: VERSION = "",
    store: STORE = None,
    key: KEY = None,
    ci: CI = False,
    as_json: JSON = False,
) -> None:
    """Make a version the one that pipelines use, on the architecture that its gates ran on."""
    event = registry_of(store, key, ci=ci).promote(name, version)
    if as_json:
        _print_event(event)
    elif event is None:
        print(f"{name} {version or 'in its newest version'} is promoted already.")
    else:
        after = f", after {event.before}" if event.before else ""
        print(f"{name} {event.versions[0]} is promoted for {event.target}{after}.")


@engine_app.command("rollback")
def rollback_command(
    name: NAME,
    target: Annotated[str, typer.Option(help="Architecture, for example sm_90 or cpu.")] = "",
    store: STORE = None,
    key: KEY = None,
    ci: CI = False,
    as_json: JSON = False,
) -> None:
    """Promote again what was promoted before."""
    event = registry_of(store, key, ci=ci).rollback(name, target)
    if as_json:
        _print_event(event)
    else:
        print(f"{name} {event.versions[0]} is promoted for {event.target} again, after {event.before}.")


@engine_app.command("prune")
def prune_command(
    name: NAME,
    keep: Annotated[int, typer.Option(help="Newest versions to keep, beside promoted ones.")] = 3,
    store: STORE = None,
    as_json: JSON = False,
) -> None:
    """Remove old versions; promoted ones and those that a rollback would go to stay."""
    gone = registry_of(store).prune(name, keep=keep)
    print(json.dumps({"removed": gone}) if as_json else f"Removed: {', '.join(gone) or 'nothing'}.")


@engine_app.command("keygen")
def keygen_command(
    path: Annotated[Path, typer.Argument(help="File to write; never overwritten.", show_default=False)],
    algorithm: Annotated[str, typer.Option(help="hmac-sha256 or ed25519.")] = "hmac-sha256",
    key_id: Annotated[str, typer.Option("--id", help="Name in signatures; default: from the key.")] = "",
    days: Annotated[int, typer.Option(min=0, help="Days until it expires; 0 for never.")] = 0,
) -> None:
    """Make a key that signs engines; of Ed25519 also a public file, which only checks them."""
    import datetime as dt

    from searchpipe.engine.signing import moment, utc_now
    from searchpipe.engine.signing_keys import ED25519, HMAC, make_key, write_key

    if algorithm not in (HMAC, ED25519):
        raise RecipeError(f"There is no signature {algorithm!r}.", cure=f"Use {HMAC} or {ED25519}.")
    expires = moment(utc_now() + dt.timedelta(days=days)) if days else ""
    made = make_key(HMAC if algorithm == HMAC else ED25519, key_id=key_id, expires=expires)
    public = write_key(made, path)
    print(f"Key {made.id} is in {path}; keep it secret.")
    if public is not None:
        print(f"Who only checks signatures needs {public}.")


def _facts(entry: Any) -> dict[str, Any]:
    manifest = entry.manifest
    facts: dict[str, Any] = {
        "name": entry.name,
        "version": entry.version,
        "promoted_for": list(entry.promoted_for),
        "folder": str(entry.folder),
        "problem": entry.problem,
    }
    if manifest is not None:
        facts |= {
            "task": manifest.task,
            "created": manifest.created,
            "target": manifest.target,
            "chosen": manifest.chosen,
            "passed": manifest.passed(),
            "bytes": sum(file.bytes for file in manifest.files.values()),
            "signed_by": manifest.signature.key_id if manifest.signature else None,
        }
    return facts


def _print_event(event: Any) -> None:
    import msgspec

    print(json.dumps({"event": msgspec.to_builtins(event)}, indent=2))
