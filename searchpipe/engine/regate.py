"""An engine of the store through its recipe's gates again, on this machine: what passes is a new version.

A build on a CPU leaves float32, what won on that CPU, and TensorRT plans that nothing could run there.
On the machine that shall serve, the gates decide: each plan that fits its GPU is measured in place of
the ONNX file of its precision, and half precision for ONNX Runtime's CUDA provider is made anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.backends.plan_manifest import check_fit, manifest_path, read_manifest
from searchpipe.engine.fp16 import for_cuda, kept_fp32, to_fp16
from searchpipe.engine.gates.runtime import gate_device
from searchpipe.engine.machine import Machine, this_machine
from searchpipe.engine.manifest import EngineManifest, Variant
from searchpipe.engine.onnx_graph import load_model, save_model
from searchpipe.engine.recipe import PRECISIONS, Precision, Recipe, parse_recipe
from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import moment, utc_now
from searchpipe.engine.signing_keys import Key
from searchpipe.engine.standard_form import fuse_attention
from searchpipe.engine.step import Build, Inputs, Say, StepOutput
from searchpipe.engine.steps.check_in import GatesFailedError, refusals, told
from searchpipe.engine.steps.gate import GATED_PLANS, GateStep
from searchpipe.engine.store_files import facts_of
from searchpipe.errors import ModelError

Files = dict[str, tuple[Path, str]]
"""Role -> file and its place in the engine's folder."""


def regate(
    registry: Registry,
    name: str,
    version: str,
    inputs: Callable[[Recipe], Inputs],
    *,
    key: Key | None = None,
    open_ranker: Callable[[Any, Path], Any] | None = None,
    say: Say = print,
    machine: Machine | None = None,
) -> EngineManifest:
    """Gate a version on this machine and check the outcome in as a new version; the old one stays as it is.

    Args:
        registry: the store.
        name: of the engine.
        version: that is gated; the newest if empty. Its files and signature are verified first.
        inputs: what to gate on, of the recipe that the engine was built by.
        key: signs the new version.
        open_ranker: for recipes of task ``ranker``.
        say: progress.
        machine: this one if None.

    Raises:
        RegistryError: there is no such version, it is damaged, or the store refused.
        RecipeError: there is nothing to gate on.
        GatesFailedError: nothing passed; the store is as it was.
    """
    registry.refuse_unsigned(key)
    before = registry.good_manifest(name, registry.manifest(name, version).version)
    recipe = parse_recipe(before.recipe.text, f"the recipe of {name} {before.version}")
    folder = registry.store.folder_of(name, before.version)
    on_gpu = gate_device(recipe.task) == "cuda"
    here = machine or this_machine()
    with tempfile.TemporaryDirectory(prefix="searchpipe-gate-") as scratch:
        models = _models(before, folder)
        if on_gpu:
            models |= _for_cuda(models, recipe, Path(scratch), say)
        plans = _plans(before, folder, here, say) if on_gpu else {}
        recipe = _of_what_is_there(recipe, {*models, *plans})
        build = Build(inputs(recipe), Path(scratch), _done(before, folder, models, plans), say)
        gates = dict(GateStep(open_ranker).run(build).facts)
        gates["gated_again"] = {"version": before.version, "machine": here.line()}
        results: dict[Precision, Any] = gates["variants"]
        if gates["chosen"] is None:
            raise GatesFailedError(
                f"No variant of {name} {before.version} passed its gates on this machine. {told(results)}",
                cure="Nothing was checked in.",
            )
        files, variants = _collect(before, folder, results, models, plans)
        made = msgspec.structs.replace(
            before,
            version="",
            created=moment(utc_now()),
            target=here.target if on_gpu else "cpu",
            chosen=gates["chosen"],
            variants=variants,
            gates=gates,
            files={role: facts_of(path, place) for role, (path, place) in files.items()},
            signature=None,
        )
        return registry.check_in(made, {role: path for role, (path, _) in files.items()}, key=key)


def _models(manifest: EngineManifest, folder: Path) -> dict[str, Path]:
    """ONNX files of the version by the role that a build gives them."""
    found: dict[str, Path] = {}
    for precision, variant in manifest.variants.items():
        if variant.onnx:
            found[precision] = folder / variant.onnx
        if variant.cuda:
            found[f"{precision}_cuda"] = folder / variant.cuda
    return found


def _for_cuda(models: Mapping[str, Path], recipe: Recipe, scratch: Path, say: Say) -> dict[str, Path]:
    """What a build makes for ONNX Runtime's CUDA provider, of the float32 file; empty where nothing fuses."""
    made: dict[str, Path] = {}
    if "fp32_cuda" not in models:
        fused, layers = fuse_attention(load_model(models["fp32"]))
        if not layers:
            say("gate: no attention was recognised; the files are taken as they are")
            return made
        made["fp32_cuda"] = save_model(fused, scratch / "fp32_cuda.onnx")
    if "fp16" in recipe.precision.make and "fp16_cuda" not in models:
        model = load_model(made.get("fp32_cuda") or models["fp32_cuda"])
        keep = for_cuda(kept_fp32(model, recipe.precision, patterns_must_fit=False))
        made["fp16_cuda"] = save_model(to_fp16(model, keep), scratch / "fp16_cuda.onnx")
        say("gate: half precision for the CUDA provider was made")
    return made


def _of_what_is_there(recipe: Recipe, roles: Collection[str]) -> Recipe:
    """``recipe`` with the precisions that left a file: the others were refused before."""
    make = tuple(p for p in recipe.precision.make if p in roles or f"{p}_cuda" in roles)
    return msgspec.structs.replace(recipe, precision=msgspec.structs.replace(recipe.precision, make=make))


def _plans(manifest: EngineManifest, folder: Path, here: Machine, say: Say) -> dict[str, Path]:
    """Plans that this machine can run; of the others it says why not."""
    found: dict[str, Path] = {}
    for precision, variant in manifest.variants.items():
        if not variant.plan or here.gpu is None:
            continue
        plan = folder / variant.plan
        needs = read_manifest(plan)
        version = here.runtimes.get(needs.runtime, "")
        try:
            if not version:
                raise ModelError(f"{plan} needs {needs.runtime}, which is not installed.")
            check_fit(plan, needs, here.gpu.name, here.gpu.capability, needs.runtime, version)
        except ModelError as error:
            say(f"gate: {error}")
        else:
            found[precision] = plan
    return found


def _done(
    manifest: EngineManifest, folder: Path, models: Mapping[str, Path], plans: Mapping[str, Path]
) -> dict[str, StepOutput]:
    """The version as the steps before the gates would have left it."""
    source: dict[str, Path] = {}
    for role, facts in manifest.files.items():
        if role.endswith(".json"):
            # A ranker's definition is found by its model's name.
            source["model"] = (folder / facts.path).with_suffix(".onnx")
    exported = {"fp32": models["fp32"]}
    if "tokenizer" in manifest.files:
        exported["tokenizer"] = folder / manifest.files["tokenizer"].path
    return {
        "source": StepOutput(source, {"prefix": manifest.model.query_prefix}),
        "export": StepOutput(exported),
        "profile": StepOutput({}, manifest.profiles),
        "convert": StepOutput(dict(models)),
        GATED_PLANS: StepOutput(dict(plans)),
    }


def _collect(
    manifest: EngineManifest,
    folder: Path,
    results: Mapping[Precision, Any],
    models: Mapping[str, Path],
    plans: Mapping[str, Path],
) -> tuple[Files, dict[Precision, Variant]]:
    """Float32, and of each precision that passed the very file that did; what was not gated stays refused."""
    files: Files = {
        role: (folder / facts.path, facts.path)
        for role, facts in manifest.files.items()
        if not role.startswith("plan-") and role.removesuffix("_cuda") not in PRECISIONS
    }
    variants = {
        precision: Variant(False, refused=variant.refused or ("No file of it can be gated here.",))
        for precision, variant in manifest.variants.items()
        if precision not in results
    }
    for precision in (p for p in PRECISIONS if p in results):
        passed = bool(results[precision]["passed"])
        places = {"onnx": "", "plan": "", "cuda": ""}
        if precision == "fp32" or (passed and precision in models and precision not in plans):
            places["onnx"] = f"{precision}.onnx"
            files[precision] = (models[precision], places["onnx"])
        if passed and precision in plans:
            places["plan"] = f"{precision}.plan"
            files[f"plan-{precision}"] = (plans[precision], places["plan"])
            files[f"plan-{precision}-manifest"] = (manifest_path(plans[precision]), f"{places['plan']}.json")
        elif passed and f"{precision}_cuda" in models:
            places["cuda"] = f"{precision}_cuda.onnx"
            files[f"{precision}_cuda"] = (models[f"{precision}_cuda"], places["cuda"])
        variants[precision] = Variant(passed, refused=refusals(results[precision]), **places)
    return files, variants
