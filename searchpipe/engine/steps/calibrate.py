"""Samples by strata of the traffic, and the ranges of the float32 model's activations on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.engine.activations import CalibrationDevice, calibration_device
from searchpipe.engine.calibration import Sample, Source, describe, draw, facts_of, require_cover, split
from searchpipe.engine.calibration import write_samples as write
from searchpipe.engine.fingerprint import file_key, snapshot_key
from searchpipe.engine.onnx_graph import hash_of
from searchpipe.engine.ranges import RangeTable, measure, read_table, table_key, write_table
from searchpipe.engine.recipe import Task
from searchpipe.engine.sample_feeds import FeedMaker, OpenRanker, batches
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.traffic import Traffic, TrafficQuery, open_traffic
from searchpipe.engine.versions import versions_of
from searchpipe.errors import RecipeError
from searchpipe.models.cache import default_cache_dir

Draw = Callable[[Source, Task, int, int], list[Sample]]
_TOOLS = ("onnx", "onnxruntime", "numpy")
_SAY_EVERY = 100  # batches


class CalibrateStep:
    """Writes ``samples``, ``holdout`` and ``table`` (none of them without int8); for one thread.

    Args:
        open_ranker: needed for recipes of task ``ranker``.
        draw: draws samples; what it draws is checked for cover all the same.
        cache: folder of tables; by default in the user's cache.
    """

    name = "calibrate"
    needs: tuple[str, ...] = ("source", "export")

    def __init__(
        self, *, open_ranker: OpenRanker | None = None, draw: Draw = draw, cache: Path | None = None
    ) -> None:
        self._open_ranker = open_ranker
        self._draw = draw
        self._cache = cache

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """Settings, log, snapshot and tools."""
        recipe = inputs.recipe
        return {
            "calibration": msgspec.to_builtins(recipe.calibration),
            "int8": "int8" in recipe.precision.make,
            "holdout": recipe.sensitivity.rows,
            "task": recipe.task,
            "max_tokens": recipe.source.max_tokens,
            "log": file_key(inputs.log),
            "snapshot": snapshot_key(inputs.snapshot),
            "seed": inputs.seed,
            "device": _device(inputs),
            **versions_of(*_TOOLS),
        }

    def run(self, build: Build) -> StepOutput:
        """Draw, check and measure.

        Raises:
            RecipeError: there is no log, too few samples, a stratum without cover, or rows repeat.
            SnapshotError: the snapshot cannot be opened.
        """
        recipe, inputs = build.inputs.recipe, build.inputs
        if "int8" not in recipe.precision.make:
            return StepOutput(facts={"skipped": "precision.make has no int8"})
        if inputs.log is None or (inputs.snapshot is None and recipe.task != "query"):
            raise RecipeError(
                "int8 is calibrated on real traffic, and there is no query log or no snapshot.",
                cure='Name both (--log, --snapshot), or leave "int8" out of precision.make.',
            )
        traffic = open_traffic(inputs.log, inputs.snapshot, seed=inputs.seed)
        try:
            return self._calibrate(build, traffic)
        finally:
            traffic.close()

    def _calibrate(self, build: Build, traffic: Traffic) -> StepOutput:
        recipe = build.inputs.recipe
        settings = recipe.calibration
        wanted = settings.batches * settings.batch_rows
        drawn = self._draw(traffic, recipe.task, wanted + recipe.sensitivity.rows, settings.seed)
        samples, holdout = split(drawn, wanted)
        counts = require_cover(samples, _answerable(traffic, recipe.task), settings)
        build.say(f"calibrate: {len(samples):,} rows: {describe(counts)}")
        files = {
            "samples": write(build.folder / "samples.jsonl", samples),
            "holdout": write(build.folder / "holdout.jsonl", holdout),
        }
        model = build.done["export"].files["fp32"]
        device = calibration_device(settings.device)
        made_with = versions_of(*_TOOLS) | {"device": device}
        key = table_key(hash_of(model), hash_of(files["samples"]), settings, made_with)
        cached = (self._cache or default_cache_dir() / "calibration") / f"{key}.json"
        table = read_table(cached, key)
        reused = table is not None
        if table is None:
            build.say(f"calibrate: running float32 on {device}")
            table = self._measure(build, traffic, samples, model, key, device)
            write_table(table, cached)
        else:
            build.say(f"calibrate: the table {key[:12]} is in the cache")
        files["table"] = write_table(table, build.folder / "table.json")
        ranges = table.ranges
        facts = {
            "method": settings.method,
            "percentile": settings.percentile if settings.method == "percentile" else None,
            "seed": settings.seed,
            "device": device,
            "key": key,
            "cached": reused,
            "shares": traffic.shares(),
            **facts_of(counts, samples),
            "holdout": len(holdout),
            "tensors": len(ranges),
            "dead": list(table.dead),
            "ranges": {
                name: {"amax": r.amax, "threshold": r.threshold, "clipped": r.clipped}
                for name, r in ranges.items()
            },
        }
        return StepOutput(files, facts)

    def _measure(
        self,
        build: Build,
        traffic: Traffic,
        samples: list[Sample],
        model: Path,
        key: str,
        device: CalibrationDevice,
    ) -> RangeTable:
        recipe = build.inputs.recipe
        maker = feed_maker(build, traffic, self._open_ranker)
        total = -(-len(samples) // recipe.calibration.batch_rows)

        def said() -> Any:
            lengths = maker.lengths(samples)
            made = batches(
                samples, maker.feeds, recipe.calibration.batch_rows, lengths, recipe.calibration.seed
            )
            for number, (feeds, _) in enumerate(made):
                if number % _SAY_EVERY == 0:
                    build.say(f"calibrate: batch {number:,} of {total:,}")
                yield feeds

        return measure(model, said(), recipe.calibration, key, device=device)


def _device(inputs: Inputs) -> str:
    """For the key: where it would run; what cannot run is refused when the step runs."""
    try:
        return calibration_device(inputs.recipe.calibration.device)
    except RecipeError:
        return inputs.recipe.calibration.device


def _answerable(traffic: Traffic, task: Task) -> list[TrafficQuery]:
    """Queries that rows can be made of: one for which nothing is found has no pairs, and needs no cover."""
    return [
        query
        for query in traffic.queries
        if task == "query" or query.strata.get("category") != "none" or len(traffic.candidates(query, 1))
    ]


def feed_maker(build: Build, traffic: Traffic, open_ranker: OpenRanker | None) -> FeedMaker:
    """What turns samples into inputs of the build's model.

    Raises:
        RecipeError: the snapshot was tokenized for another model, or nothing computes a ranker's inputs.
    """
    recipe, source = build.inputs.recipe, build.done["source"]
    ranker = None
    if recipe.task == "ranker" and open_ranker is not None and traffic.snapshot is not None:
        ranker = open_ranker(traffic.snapshot, source.files["model"])
    return FeedMaker(
        recipe.task,
        source.files.get("tokenizer"),
        traffic.snapshot,
        recipe.source.max_tokens,
        prefix=str(source.facts.get("prefix", "")),
        ranker=ranker,
    )
