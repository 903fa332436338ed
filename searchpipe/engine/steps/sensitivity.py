"""Which layers cost int8 the most quality, on rows held out from calibration; a proposal for the recipe."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from searchpipe.arrays import Float32
from searchpipe.engine.agreement import Run, open_run
from searchpipe.engine.calibration import read_samples
from searchpipe.engine.fingerprint import snapshot_key
from searchpipe.engine.int8 import quantise
from searchpipe.engine.onnx_graph import load_model
from searchpipe.engine.ranges import RangeTable, read_table
from searchpipe.engine.sample_feeds import Batch, OpenRanker, batches
from searchpipe.engine.sensitivity import Sweep, group_products, sweep
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.steps.calibrate import feed_maker
from searchpipe.engine.traffic import Traffic
from searchpipe.engine.versions import versions_of
from searchpipe.errors import RecipeError
from searchpipe.files import published, write_json

# Fewer rows say nothing of a rank correlation.
_LEAST_ROWS = 16


class SensitivityStep:
    """Writes ``sensitivity`` (JSON) and ``table`` (tab-separated); for one thread.

    Args:
        open_ranker: needed for recipes of task ``ranker``.
        clock: seconds, for the budget.
    """

    name = "sensitivity"
    needs: tuple[str, ...] = ("source", "export", "calibrate", "convert")

    def __init__(
        self, *, open_ranker: OpenRanker | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_ranker = open_ranker
        self._clock = clock

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """Depends on ``[sensitivity]``, the snapshot and the versions of the tools."""
        return {
            "sensitivity": msgspec.to_builtins(inputs.recipe.sensitivity),
            "snapshot": snapshot_key(inputs.snapshot),
            **versions_of("onnx", "onnxruntime"),
        }

    def run(self, build: Build) -> StepOutput:
        """Sweep within the budget.

        Raises:
            RecipeError: the files of the step calibrate are damaged, or a variant cannot be made.
            SnapshotError: the snapshot cannot be opened.
        """
        settings, inputs = build.inputs.recipe.sensitivity, build.inputs
        skipped = ""
        if "int8" not in inputs.recipe.precision.make:
            skipped = "precision.make has no int8"
        elif not settings.enabled:
            skipped = "sensitivity.enabled is false"
        if skipped:
            return StepOutput(facts={"skipped": skipped})
        samples = read_samples(build.done["calibrate"].files["holdout"])[: settings.rows]
        if len(samples) < _LEAST_ROWS:
            told = f"{len(samples)} rows were left after calibration, and {_LEAST_ROWS} are needed"
            return StepOutput(facts={"skipped": told})
        table = read_table(build.done["calibrate"].files["table"])
        if table is None:
            raise RecipeError("The calibration table is damaged.", cure="Build again from calibrate.")
        traffic = _documents(inputs)
        try:
            maker = feed_maker(build, traffic, self._open_ranker)
            rows = inputs.recipe.calibration.batch_rows
            held = list(batches(samples, maker.feeds, rows, maker.lengths(samples), inputs.seed))
        finally:
            traffic.close()
        return self._sweep(build, table, held)

    def _sweep(self, build: Build, table: RangeTable, held: Sequence[Batch]) -> StepOutput:
        settings = build.inputs.recipe.sensitivity
        source = build.done["export"].files["fp32"]
        model = load_model(source)
        products: list[str] = build.done["convert"].facts["int8"]["products"]
        groups = group_products(model, products, settings.max_groups)
        began = self._clock()
        with tempfile.TemporaryDirectory(prefix=".sweep-", dir=build.folder) as scratch:
            path = Path(scratch) / "variant.onnx"

            def score(nodes: Sequence[str]) -> Float32:
                return _outputs(open_run(quantise(source, table, nodes, path))[0], held)

            found = sweep(
                products,
                groups,
                _outputs(open_run(source)[0], held),
                score,
                seconds=settings.budget_seconds,
                clock=self._clock,
                say=lambda line: build.say(f"sensitivity: {line}"),
            )
        facts = _facts(found, sum(len(places) for _, places in held))
        facts["seconds"] = self._clock() - began
        write_json(build.folder / "sensitivity.json", facts)
        _write_table(build.folder / "sensitivity.tsv", found)
        if found.proposal:
            build.say(f"sensitivity: for exclude_int8: {', '.join(found.proposal)}")
        files = {"sensitivity": build.folder / "sensitivity.json", "table": build.folder / "sensitivity.tsv"}
        return StepOutput(files, facts)


def _documents(inputs: Inputs) -> Traffic:
    """The snapshot alone: the rows were drawn before."""
    from searchpipe.catalog import Snapshot

    return Traffic([], Snapshot.open(inputs.snapshot) if inputs.snapshot is not None else None)


def _outputs(run: Run, held: Sequence[Batch]) -> Float32:
    """A model's outputs in the order of the samples."""
    parts = [np.asarray(run(feeds), np.float32) for feeds, _ in held]
    places = np.concatenate([places for _, places in held])
    whole = np.concatenate([part.reshape(len(part), -1) for part in parts])
    ordered: Float32 = np.empty_like(whole)
    ordered[places] = whole
    return ordered


def _facts(found: Sweep, rows: int) -> dict[str, Any]:
    return {
        "rows": rows,
        "full": msgspec.to_builtins(found.full),
        "groups": [msgspec.to_builtins(group) for group in found.groups],
        "path": [{"left": name, **msgspec.to_builtins(effect)} for name, effect in found.path],
        "proposal": [f"^{re.escape(name)}$" for name in found.proposal],
        "complete": found.complete,
        "unmeasured": [group.name for group in found.groups if group.alone is None],
    }


def _write_table(path: Path, found: Sweep) -> None:
    with published(path) as file:
        file.write("group\tproducts\terror_alone\tcorrelation_alone\terror_without\tcorrelation_without\n")
        for group in found.groups:
            cells = [group.name, str(len(group.products))]
            for effect in (group.alone, group.without):
                cells += [f"{effect.error:.6f}", f"{effect.correlation:.6f}"] if effect else ["", ""]
            file.write("\t".join(cells) + "\n")
