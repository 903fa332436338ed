"""Which goals do the figures in a folder of JSON files meet?

    python -m benchmarks.goals FOLDER

Reads what the benchmarks wrote with ``--json``: of each figure with a goal its value, and whether that holds.
Exits with 1 if one does not, or if there are no goals.
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_GOAL = re.compile(r"(<=|>=|<|>|=)\s*(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A figure and its goal; ``met`` is None for a goal that is no comparison."""

    benchmark: str
    figure: str
    value: float
    goal: str
    met: bool | None


def meets(value: float, goal: str) -> bool | None:
    """Whether ``value`` meets a goal of :meth:`benchmarks.report.Report.figure`; None if that is unclear."""
    found = _GOAL.fullmatch(goal.strip())
    return None if found is None else _COMPARISONS[found[1]](value, float(found[2]))


def outcomes(folder: Path) -> Iterator[Outcome]:
    """All figures with a goal in the JSON files of ``folder``, in the order of names.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    for path in sorted(folder.glob("*.json")):
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for figure, goal in content.get("goals", {}).items():
            value = content["figures"][figure]
            yield Outcome(content["benchmark"], figure, value, goal, meets(value, goal))


def main() -> int:
    """Print a table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goals", description=__doc__)
    parser.add_argument("folder", type=Path)
    found = list(outcomes(parser.parse_args().folder))
    for one in found:
        mark = {True: "met", False: "MISSED", None: "?"}[one.met]
        print(f"{mark:7} {one.benchmark:14} {one.figure:32} {one.value:12,.4g}  {one.goal}")
    if not found:
        print("no figure with a goal")
    return int(not found or any(one.met is False for one in found))


if __name__ == "__main__":
    sys.exit(main())
