"""The last step: what passed its gates goes into the store, with its manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchpipe.backends.plan_manifest import manifest_path, read_manifest
from searchpipe.engine.machine import this_machine
from searchpipe.engine.manifest import EngineManifest, RecipeFacts, SourceModel, Variant
from searchpipe.engine.recipe import PRECISIONS, Precision
from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import moment, utc_now
from searchpipe.engine.signing_keys import Key
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.store_files import facts_of
from searchpipe.errors import RecipeError
from searchpipe.models.builtin import BUILTIN
from searchpipe.models.cache import sha256_of

# Gates that say something of the machine they ran on, and nothing of what the engine answers.
_OF_THE_MACHINE = re.compile(r"speed|stress|p99|memory|latency")


class GatesFailedError(RecipeError):
    """No variant passed its gates; nothing is checked in."""

    code = "gates_failed"


class CheckInStep:
    """Checks in the variants that passed, with fp32 for engines that prepare their own. For one thread.

    It runs in every build, for only the store knows what is in it: the same engine again keeps its
    version.

    Args:
        registry: the store.
        recipe_text: the recipe's file, kept in the manifest.
        key: signs the manifest; None for an unsigned engine.
    """

    name = "check_in"
    needs: tuple[str, ...] = ("source", "export", "profile", "calibrate", "convert", "plan", "gate")
    always = True

    def __init__(self, registry: Registry, recipe_text: str, key: Key | None = None) -> None:
        self._registry = registry
        self._recipe_text = recipe_text
        self._key = key

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """The recipe's text."""
        del inputs
        return {"recipe": self._recipe_text}

    def run(self, build: Build) -> StepOutput:
        """Check in.

        Raises:
            GatesFailedError: no variant passed; the message has each refusal.
            RegistryError: the store refused.
        """
        gates = dict(build.done["gate"].facts)
        chosen: Precision | None = gates.get("chosen")
        results: dict[Precision, Any] = gates.get("variants", {})
        refused = {precision: refusals(result) for precision, result in results.items()}
        waived = _waived(results.get(chosen, {})) if chosen else ()
        if chosen is None:
            raise GatesFailedError(
                f"No variant of {build.inputs.recipe.name} passed its gates. {told(results)}",
                cure="Nothing was checked in; see the report. A gate that may fail is named in gates.allow.",
            )
        target = "cpu" if gates.get("device", "cpu") == "cpu" else this_machine().target
        files, variants = _collect(build, chosen, target, results, refused)
        manifest = self._manifest(build, chosen, target, gates, variants, files)
        made = self._registry.check_in(
            manifest, {role: path for role, (path, _) in files.items()}, key=self._key
        )
        folder = self._registry.store.folder_of(made.name, made.version)
        build.say(f"{made.name} {made.version} is in {folder}")
        return StepOutput(
            {},
            {
                "name": made.name,
                "version": made.version,
                "folder": str(folder),
                "chosen": chosen,
                "passed": made.passed(),
                "refused": {p: why for p, why in refused.items() if why and p != chosen},
                # Failed, and the recipe allows it.
                "doubts": waived,
                "signed_by": made.signature.key_id if made.signature else None,
            },
        )

    def _manifest(
        self,
        build: Build,
        chosen: Precision,
        target: str,
        gates: dict[str, Any],
        variants: dict[Precision, Variant],
        files: dict[str, tuple[Path, str]],
    ) -> EngineManifest:
        import searchpipe

        recipe, machine = build.inputs.recipe, this_machine()
        text = self._recipe_text
        return EngineManifest(
            name=recipe.name,
            task=recipe.task,
            created=moment(utc_now()),
            searchpipe=searchpipe.__version__,
            target=target,
            model=_source_model(build),
            recipe=RecipeFacts(recipe.name, hashlib.sha256(text.encode()).hexdigest(), text),
            chosen=chosen,
            variants=variants,
            calibration=dict(build.done["calibrate"].facts),
            profiles=dict(build.done["profile"].facts),
            gates=gates,
            built_on=machine,
            files={role: facts_of(path, place) for role, (path, place) in files.items()},
        )


def told(results: Mapping[Precision, Any]) -> str:
    """Every refusal of every precision, in one line."""
    found = {precision: refusals(result) for precision, result in results.items()}
    return " ".join(f"{precision}: {' '.join(why)}" for precision, why in found.items() if why)


def refusals(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Gates of one precision that refuse it, a sentence each; empty if it passed."""
    if result.get("passed", False):
        return ()
    failed = [gate for gate in result.get("gates", ()) if not _let_through(gate)]
    return tuple(map(_sentence, failed)) or ("Its gates were not evaluated.",)


def _let_through(gate: Mapping[str, Any]) -> bool:
    return bool(gate.get("passed", False) or gate.get("waived", False))


def _waived(result: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_sentence(gate) for gate in result.get("gates", ()) if gate.get("waived", False))


def _sentence(gate: Mapping[str, Any]) -> str:
    """``speed is 0.75, limit 1: ...``, with the stratum that did worst."""
    value, limit = gate.get("value"), gate.get("limit")
    figures = "" if value is None else f" is {value:.4g}" + ("" if limit is None else f", limit {limit:.4g}")
    worst = f" (worst: {gate['worst']})" if gate.get("worst") else ""
    return f"{gate['name']}{figures}{worst}: {str(gate.get('reason', '')).rstrip('.')}."


def _collect(
    build: Build,
    chosen: Precision,
    target: str,
    results: Mapping[Precision, Any],
    refused: Mapping[Precision, tuple[str, ...]],
) -> tuple[dict[str, tuple[Path, str]], dict[Precision, Variant]]:
    """Files to check in (role -> file and its place in the engine), and the variants made of them."""
    files: dict[str, tuple[Path, str]] = {}
    source = {**build.done["source"].files, **_tokenizer_of(build.done["export"].files)}
    # A ranker reads columns: what says which (and their vocabularies) comes beside its model.
    beside = set(source) - {"model"} if build.inputs.recipe.task == "ranker" else {"tokenizer"} & set(source)
    for role in sorted(beside):
        files[role] = (source[role], source[role].name)
    converted, plans = build.done["convert"].files, build.done["plan"].files
    variants: dict[Precision, Variant] = {}
    for precision in PRECISIONS:
        passed = precision == chosen or bool(results.get(precision, {}).get("passed", False))
        onnx = plan = cuda = ""
        if precision in converted and (passed or precision == "fp32"):
            onnx = f"{precision}.onnx"
            files[precision] = (converted[precision], onnx)
        if f"{precision}_cuda" in converted and passed and target != "cpu":
            cuda = f"{precision}_cuda.onnx"
            files[f"{precision}_cuda"] = (converted[f"{precision}_cuda"], cuda)
        if precision in plans and (passed or _only_the_machine(results.get(precision, {}))):
            plan = f"{precision}.plan"
            _check_plan(plans[precision])
            files[f"plan-{precision}"] = (plans[precision], plan)
            files[f"plan-{precision}-manifest"] = (manifest_path(plans[precision]), f"{plan}.json")
        if onnx or plan or precision in results:
            variants[precision] = Variant(passed, onnx, plan, cuda, refused.get(precision, ()))
    if "fp32" not in files:
        raise RecipeError("The build has no fp32 file, which every engine carries.")
    return files, variants


def _tokenizer_of(files: Mapping[str, Path]) -> dict[str, Path]:
    """The exported tokenizer, which is the source's unless the export had to change it."""
    return {role: path for role, path in files.items() if role == "tokenizer"}


def _check_plan(plan: Path) -> None:
    """A plan could never be opened without its own manifest, or with one that is of another file."""
    if read_manifest(plan).sha256 != sha256_of(plan):
        raise RecipeError(
            f"{plan} is not the plan that its manifest is of.", cure="Build it again: --from plan."
        )


def _only_the_machine(result: Mapping[str, Any]) -> bool:
    """Whether the only gates that failed are of speed: a plan for another machine is kept, and not picked."""
    failed = [gate["name"] for gate in result.get("gates", ()) if not _let_through(gate)]
    return bool(failed) and all(_OF_THE_MACHINE.search(name) for name in failed)


def _source_model(build: Build) -> SourceModel:
    recipe, facts = build.inputs.recipe, build.done["source"].facts
    builtin = BUILTIN.get(recipe.source.model)
    settings = builtin.settings if builtin else None
    return SourceModel(
        name=recipe.source.model,
        sha256=str(facts["sha256"]),
        max_tokens=recipe.source.max_tokens,
        pooling=(facts.get("pooling") or "none") if recipe.task == "query" else "none",
        normalize=recipe.task == "query" and bool(facts.get("normalize", True)),
        query_prefix=str(facts.get("prefix") or (settings.query_prefix if settings else "")),
        document_prefix=settings.document_prefix if settings else "",
        licence=settings.licence if settings else "",
    )
