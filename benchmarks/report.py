"""What every benchmark shares: its arguments, the facts about the machine, a table and a JSON file.

A benchmark is a module that runs as ``python -m benchmarks.NAME [--json FILE]``::

    def main() -> None:
        report = Report.from_args("pack", "How fast are pairs packed?", packages=("tokenizers",))
        report.times("packer", seconds)                      # a distribution: printed as quantiles
        report.figure("pack_speedup_vs_tokenizers", 120.0, unit="x", goal=">= 100")
        report.finish()

The JSON is ``{"benchmark", "machine", "versions", "seed", "figures": {name: number}, "goals": {name: text},
"times": {...}, "notes": [...]}``; ``benchmarks.goals`` reads the goals.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from searchpipe.files import write_json

QUANTILES = (0.5, 0.9, 0.99)


def quantiles(values: ArrayLike, points: Sequence[float] = QUANTILES) -> dict[str, float]:
    """Return the quantiles of ``values`` by linear interpolation: ``{"p50": ..., "p99": ...}``.

    Raises:
        ValueError: no values, a NaN among them, or a point outside 0..1.

    """
    array = np.asarray(values, np.float64).ravel()
    if array.size == 0 or np.isnan(array).any():
        raise ValueError(f"quantiles need at least one value and no NaN, got {array.size} values")
    return {f"p{100 * point:g}": float(np.quantile(array, point)) for point in points}


def measure(call: Callable[[], object], *, rounds: int = 50, warm_up: int = 3) -> list[float]:
    """Seconds of each of ``rounds`` calls, after ``warm_up`` calls that are not counted."""
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed")
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def shared_folder(*parts: str) -> Path | None:
    """Return a path inside the ``shared`` data folder, or None where it does not exist.

    The folder is ``$SEARCHPIPE_SHARED`` if that is set, else the nearest ``shared`` found in the
    checkout or beside one of the folders above it.
    """
    named = os.environ.get("SEARCHPIPE_SHARED")
    checkout = Path(__file__).resolve().parent.parent
    roots = [Path(named)] if named else [folder / "shared" for folder in (checkout, *checkout.parents)]
    return next((root.joinpath(*parts) for root in roots if root.joinpath(*parts).exists()), None)


def machine() -> dict[str, Any]:
    """Describe this machine: platform, processor, usable cores, memory in GiB, Python."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    affinity = getattr(os, "sched_getaffinity", None)
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": model,
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "python": platform.python_version(),
    }
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return facts


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions by distribution name; "not installed" where there is none."""
    from searchpipe import __version__

    found = {"searchpipe": __version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(slots=True)
class Report:
    """The result of one benchmark. One thread fills it."""

    name: str
    title: str
    seed: int = 0
    json_path: Path | None = None
    packages: Sequence[str] = ()
    figures: dict[str, float] = field(default_factory=dict)
    goals: dict[str, str] = field(default_factory=dict)
    distributions: dict[str, dict[str, float]] = field(default_factory=dict)
    _rows: list[tuple[str, str, str]] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    @staticmethod
    def parser(name: str, title: str, *, seed: int = 0) -> argparse.ArgumentParser:
        """Make a parser of what all benchmarks take; add your own arguments, then call :meth:`from_args`."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=title)
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
        parser.add_argument("--seed", type=int, default=seed, help="of random input (default: %(default)s)")
        return parser

    @classmethod
    def from_args(
        cls,
        name: str,
        title: str,
        *,
        packages: Sequence[str] = (),
        args: argparse.Namespace | None = None,
    ) -> Report:
        """Make a report for parsed ``args`` of :meth:`parser`, or for the command line where none are given.

        ``packages`` are the distributions whose versions belong into the report.
        """
        args = cls.parser(name, title).parse_args() if args is None else args
        return cls(name, title, seed=args.seed, json_path=args.json, packages=("numpy", *packages))

    def figure(self, name: str, value: float, *, unit: str = "", goal: str = "") -> None:
        """Record the number ``name``; ``goal`` is printed beside it (for example ">= 100").

        Raises:
            ValueError: the value is NaN or infinite, or the name was recorded before.

        """
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"figure {name} is {number}; only finite numbers can be reported")
        if name in self.figures:
            raise ValueError(f"figure {name} was recorded before; give each figure a name of its own")
        self.figures[name] = number
        if goal:
            self.goals[name] = goal
        self._rows.append((name, f"{number:,.4g} {unit}".strip(), goal))

    def times(self, name: str, seconds: ArrayLike) -> dict[str, float]:
        """Record a distribution of durations in seconds; returns its quantiles in seconds."""
        found = quantiles(seconds)
        self.distributions[name] = found
        text = "  ".join(f"{point} {_duration(value)}" for point, value in found.items())
        self._rows.append((name, text, f"n = {np.size(np.asarray(seconds))}"))
        return found

    def note(self, text: str) -> None:
        """Add a line to print below the table (what was measured, on which input)."""
        self._notes.append(text)

    def as_dict(self) -> dict[str, Any]:
        """Return what :meth:`finish` writes."""
        return {
            "benchmark": self.name,
            "machine": machine(),
            "versions": versions(self.packages),
            "seed": self.seed,
            "figures": self.figures,
            "goals": self.goals,
            "times": self.distributions,
            "notes": self._notes,
        }

    def finish(self) -> None:
        """Print the table, and write the JSON file if one was asked for."""
        content = self.as_dict()
        self._print(content)
        if self.json_path is not None:
            write_json(self.json_path, content)

    def _print(self, content: dict[str, Any]) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self.title, title_justify="left")
        table.add_column("measured", overflow="fold")
        table.add_column("value", justify="right", overflow="fold")
        table.add_column("goal")
        for row in self._rows:
            table.add_row(*row)
        console = Console()
        console.print(table)
        for note in self._notes:
            console.print(note, highlight=False, markup=False)
        facts = {**content["machine"], **content["versions"], "seed": self.seed}
        console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim", markup=False)


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
