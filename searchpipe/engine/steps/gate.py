"""gate: what each precision is worth, against fp32 and against the precision above it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from searchpipe.arrays import Float32
from searchpipe.backends.machine import cpu_summary
from searchpipe.engine.fingerprint import file_key, snapshot_key
from searchpipe.engine.gates.decision import choose_precision, passes, waive
from searchpipe.engine.gates.evaluation import EvalQuery, draw_queries, score_all
from searchpipe.engine.gates.labels import load_labels
from searchpipe.engine.gates.numeric import numeric_gates
from searchpipe.engine.gates.quality import quality_gates
from searchpipe.engine.gates.result import GateResult, evaluated, not_evaluated
from searchpipe.engine.gates.runtime import gate_device
from searchpipe.engine.gates.speed import measure, speed_gate
from searchpipe.engine.gates.stress import stress_gates
from searchpipe.engine.gates.variants import (
    Inputs,
    RankerInputs,
    Variant,
    open_cpu_variant,
    open_inputs,
)
from searchpipe.engine.recipe import PRECISIONS
from searchpipe.engine.step import Build, StepOutput
from searchpipe.engine.step import Inputs as BuildInputs
from searchpipe.engine.traffic import Traffic, open_traffic
from searchpipe.errors import RecipeError, SearchpipeError
from searchpipe.files import write_json

if TYPE_CHECKING:
    from searchpipe.catalog import Snapshot

OpenRanker = Callable[["Snapshot", Path], RankerInputs]
"""Makes a feature ranker's inputs for a snapshot and its exported model."""

GATED_PLANS = "gated_plans"
"""Where :mod:`searchpipe.engine.regate` leaves plans to be measured in place of ONNX files, by precision."""


class GateStep:
    """Puts every precision through the gates and says which one is used; for one thread.

    ``gates.json`` has the facts: of each precision whether it passed and its gates, and the one
    chosen, None if none passed.

    Args:
        open_ranker: needed for recipes of task ``ranker``.
    """

    name = "gate"
    needs: tuple[str, ...] = ("source", "export", "profile", "convert")

    def __init__(self, open_ranker: OpenRanker | None = None) -> None:
        self._open_ranker = open_ranker

    def key(self, inputs: BuildInputs) -> Mapping[str, Any]:
        """Limits, what variants are compared on, and what they are measured with."""
        recipe = inputs.recipe
        return {
            "gates": msgspec.to_builtins(recipe.gates),
            "make": list(recipe.precision.make),
            "task": recipe.task,
            "max_tokens": recipe.source.max_tokens,
            "log": file_key(inputs.log),
            "labels": file_key(inputs.labels),
            "snapshot": snapshot_key(inputs.snapshot),
            "seed": inputs.seed,
            "onnxruntime": _onnxruntime_version(),
            "device": gate_device(recipe.task),
            "processor": cpu_summary(),
        }

    def run(self, build: Build) -> StepOutput:
        """Gate all variants; a gate that cannot be evaluated fails.

        Raises:
            RecipeError: there is no snapshot, or neither log nor labels, or they fit nothing.
            SnapshotError: the snapshot cannot be opened.
        """
        inputs = build.inputs
        if inputs.snapshot is None or (inputs.log is None and inputs.labels is None):
            raise RecipeError(
                "Gates compare variants on queries and documents, and there is no snapshot, "
                "or neither a query log nor labels.",
                cure="Name them (--snapshot, --log, --labels).",
            )
        with contextlib.closing(_traffic(inputs)) as traffic:
            assert traffic.snapshot is not None
            labels = load_labels(inputs.labels) if inputs.labels is not None else {}
            queries = draw_queries(traffic, labels, inputs.recipe.gates, inputs.seed)
            build.say(f"gate: {len(queries)} queries, {sum(len(q.docs) for q in queries)} pairs")
            results, facts = _Gating(build, queries, self._inputs_of(build, traffic.snapshot)).run()
        chosen = choose_precision(results)
        content = {
            "variants": {
                precision: {
                    "passed": passes(gates),
                    "gates": [gate.to_json() for gate in gates],
                    **facts[precision],
                }
                for precision, gates in results.items()
            },
            "chosen": chosen,
            "queries": len(queries),
            "labelled": sum(query.grades is not None for query in queries),
            "pairs": sum(len(query.docs) for query in queries),
            "device": gate_device(inputs.recipe.task),
        }
        build.say(f"gate: {chosen or 'no precision'} is used")
        path = build.folder / "gates.json"
        write_json(path, content)
        return StepOutput({"gates": path}, content)

    def _inputs_of(self, build: Build, snapshot: Snapshot) -> Inputs:
        recipe = build.inputs.recipe
        exported = build.done["export"].files
        ranker = None
        if recipe.task == "ranker" and self._open_ranker is not None:
            # Its definition lies beside the model that was trained.
            model = build.done["source"].files["model"] if "source" in build.done else exported["fp32"]
            ranker = self._open_ranker(snapshot, model)
        most = recipe.source.max_tokens
        if recipe.task != "ranker":
            # Rows are cut to the widest bucket when the engine serves, so they are here.
            most = min(most, int(build.done["profile"].facts["tokens"][2]))
        prefix = str(build.done["source"].facts.get("prefix", "")) if "source" in build.done else ""
        return open_inputs(
            recipe.task, snapshot, exported.get("tokenizer"), most, ranker=ranker, prefix=prefix
        )


class _Gating:
    """One run over all precisions. For one thread."""

    def __init__(self, build: Build, queries: Sequence[EvalQuery], inputs: Inputs) -> None:
        self._build = build
        self._queries = queries
        self._inputs = inputs
        self._settings = build.inputs.recipe.gates
        self._seed = build.inputs.seed
        self._profile = build.done["profile"].facts
        self._reference: list[Float32] | None = None
        self._above: tuple[str, Variant] | None = None
        self._plans = build.done.get(GATED_PLANS, StepOutput()).files

    def run(self) -> tuple[dict[str, list[GateResult]], dict[str, dict[str, Any]]]:
        files = self._build.done["convert"].files
        wanted = {"fp32", *self._build.inputs.recipe.precision.make}
        results: dict[str, list[GateResult]] = {}
        facts: dict[str, dict[str, Any]] = {}
        with contextlib.ExitStack() as opened:
            for precision in (p for p in PRECISIONS if p in wanted):
                facts[precision] = {"runtime": "", "bytes": 0}
                path = self._plans.get(precision, files.get(precision, files.get(f"{precision}_cuda")))
                if path is None:
                    results[precision] = [not_evaluated("open", f"convert made no {precision} model")]
                    continue
                try:
                    variant = self._open(precision, path)
                except (SearchpipeError, OSError) as error:
                    results[precision] = [not_evaluated("open", str(error))]
                    continue
                opened.callback(variant.close)
                facts[precision] = {"runtime": variant.runtime, "bytes": path.stat().st_size}
                results[precision] = waive(self._gates(precision, variant), self._settings.allow)
                self._tell(precision, results[precision])
                if passes(results[precision]) or precision == "fp32":
                    self._above = precision, variant
        return results, facts

    def _open(self, precision: str, path: Path) -> Variant:
        if gate_device(self._build.inputs.recipe.task) == "cpu":
            return open_cpu_variant(path, self._inputs)
        from searchpipe.engine.gates.cuda_variant import open_cuda_variant, open_plan_variant

        buckets = [(int(rows), int(tokens)) for rows, tokens in self._profile["buckets"]]
        if precision in self._plans:
            return open_plan_variant(path, self._inputs, buckets)
        prepared = self._build.done["convert"].files.get(f"{precision}_cuda", path)
        return open_cuda_variant(prepared, self._inputs, buckets)

    def _gates(self, precision: str, variant: Variant) -> list[GateResult]:
        reference = precision == "fp32"
        try:
            scores = score_all(variant, self._queries)
        except Exception as error:  # a runtime's own kinds: what cannot score has failed its gates
            return [not_evaluated("open", f"{type(error).__name__}: {error}")]
        if reference:
            self._reference = scores
        if self._reference is None:
            return [not_evaluated("open", "fp32, which it is compared with, did not run")]
        gates = numeric_gates(
            variant,
            self._queries,
            self._reference,
            scores,
            self._settings,
            max_tokens=int(self._profile["tokens"][2]),
        )
        if not reference:
            gates += quality_gates(self._queries, self._reference, scores, self._settings, self._seed)
            gates.append(evaluated("speed", lambda: self._speed(variant)))
        return gates + stress_gates(variant, self._queries, self._settings, self._seed)

    def _speed(self, variant: Variant) -> GateResult:
        if self._above is None:
            return not_evaluated("speed", "no precision above it runs")
        name, above = self._above
        shapes = [(int(rows), int(tokens)) for rows, tokens in self._profile["buckets"]]
        shares = [float(share) for share in self._profile.get("usage", [])]
        if not any(shares):
            shares = [1.0] * len(shapes)
        times = measure(variant, above, shapes, shares)
        return speed_gate(times, self._settings, name, self._seed)

    def _tell(self, precision: str, gates: Sequence[GateResult]) -> None:
        failed = [gate for gate in gates if not gate.passed]
        refusing = [gate for gate in failed if not gate.waived]
        self._build.say(f"gate: {precision} " + (f"failed {len(refusing)} gates" if refusing else "passed"))
        for gate in failed:
            self._build.say(f"  {gate.name}{' (allowed)' if gate.waived else ''}: {gate.reason}")


def _traffic(inputs: BuildInputs) -> Traffic:
    if inputs.log is not None:
        return open_traffic(inputs.log, inputs.snapshot, seed=inputs.seed)
    from searchpipe.catalog import Snapshot

    assert inputs.snapshot is not None
    return Traffic([], Snapshot.open(inputs.snapshot))


def _onnxruntime_version() -> str:
    for name in ("onnxruntime-gpu", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    return ""
