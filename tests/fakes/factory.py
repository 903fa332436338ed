"""Running some steps of the engine factory in a test, without its runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchpipe.engine.recipe import Recipe
from searchpipe.engine.step import Build, Inputs, Step, StepOutput
from searchpipe.settings import convert

PROFILE = StepOutput(
    {}, {"rows": [1, 8, 16], "tokens": [4, 16, 32], "buckets": [[1, 16], [4, 16], [8, 32], [16, 32]]}
)
"""What the profile step leaves, for steps after it."""


def recipe_of(**tables: Any) -> Recipe:
    """A recipe of few and small calibration batches."""
    small: dict[str, Any] = {
        "name": "tiny",
        "task": "pair",
        "calibration": {"batches": 12, "batch_rows": 4, "min_per_stratum": 1, "method": "percentile"},
        "sensitivity": {"rows": 16},
    }
    return convert(small | tables, Recipe)


def run_steps(
    steps: Sequence[Step],
    recipe: Recipe,
    folder: Path,
    *,
    log: Path | None = None,
    snapshot: Path | None = None,
    done: Mapping[str, StepOutput] | None = None,
) -> dict[str, StepOutput]:
    """Run ``steps`` in order, each in a folder of its own; paths of the recipe are absolute."""
    inputs = Inputs(recipe, folder, log, snapshot)
    results = dict(done or {})
    for step in steps:
        place = folder / step.name
        place.mkdir(parents=True, exist_ok=True)
        step.key(inputs)
        results[step.name] = step.run(Build(inputs, place, results, lambda _line: None))
    return results
