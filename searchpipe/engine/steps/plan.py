"""TensorRT plans of the converted models, where a builder is installed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.backends.cuda_driver import CudaFacts
from searchpipe.backends.plan_manifest import PlanManifest, manifest_path
from searchpipe.backends.probe import probe_cuda
from searchpipe.engine.fingerprint import file_key
from searchpipe.engine.onnx_graph import hash_of
from searchpipe.engine.plan_profiles import plan_profiles
from searchpipe.engine.recipe import Precision
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.trt_build import PlanJob, PlanResult, Runtime, installed, run_job
from searchpipe.engine.versions import versions_of
from searchpipe.errors import RecipeError
from searchpipe.files import write_json

_DISTRIBUTIONS = (
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-cu12",
    "tensorrt-rtx-cu13-bindings",
    "tensorrt-rtx-cu12-bindings",
)
_RUNTIMES: dict[str, Runtime] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# TensorRT-RTX plans without a named GPU run on RTX GPUs from Ampere on, and on no GPU of a data centre.
_ANY_RTX = ("any RTX GPU", (8, 0))


class PlanStep:
    """Writes a plan for each precision, by its name, each with its manifest; for one thread.

    Without a builder the step says so in its facts and the build goes on; so it does when one
    precision cannot be built.

    Args:
        probe: tells of the GPUs, without which TensorRT must not be touched.
        build: builds one plan.
    """

    name = "plan"
    needs: tuple[str, ...] = ("profile", "convert")

    def __init__(
        self,
        *,
        probe: Callable[[], CudaFacts] = probe_cuda,
        build: Callable[[PlanJob, Path], PlanResult] = run_job,
    ) -> None:
        self._probe = probe
        self._build = build

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """Depends on ``[builder]``, the pinned timing cache, the builders installed and the GPUs."""
        return {
            "builder": msgspec.to_builtins(inputs.recipe.builder),
            "timing_cache": file_key(_pinned(inputs)),
            "gpus": [[gpu.name, gpu.compute_capability] for gpu in self._probe().devices],
            **versions_of(*_DISTRIBUTIONS),
        }

    def run(self, build: Build) -> StepOutput:
        """Build what can be built.

        Raises:
            RecipeError: the recipe asks for a runtime that is not there, or pins a timing cache that is not.
        """
        settings = build.inputs.recipe.builder
        runtime, reason, gpus = self._choose(build.inputs)
        if runtime is None:
            build.say(f"plan: no plans, {reason}")
            return StepOutput(facts={"runtime": None, "reason": reason, "plans": {}, "errors": {}})
        profiles = plan_profiles(build.done["profile"].facts)
        cache = build.folder / "timing.cache"
        pinned = _pinned(build.inputs)
        if pinned is not None and runtime == "tensorrt":
            shutil.copyfile(pinned, cache)
        files: dict[str, Path] = {}
        plans: dict[str, Any] = {}
        errors: dict[str, str] = {}
        for precision, model in _models(build).items():
            path = build.folder / f"{precision}.plan"
            job = PlanJob(
                runtime=runtime,
                model=str(model),
                plan=str(path),
                timing_cache=str(cache) if runtime == "tensorrt" else "",
                profiles=profiles,
                workspace_mib=settings.workspace_mib,
                optimization_level=settings.optimization_level,
            )
            with tempfile.TemporaryDirectory(prefix=".plan-", dir=build.folder) as scratch:
                result = self._build(job, Path(scratch))
            if result.error:
                errors[precision] = result.error
                build.say(f"plan: {precision} was not built: {result.error}")
                continue
            manifest = _manifest(build, runtime, result, model, gpus)
            write_json(manifest_path(path), msgspec.to_builtins(manifest))
            files[precision], files[f"{precision}_manifest"] = path, manifest_path(path)
            plans[precision] = msgspec.to_builtins(result) | {"model": model.name}
            made = f"{result.bytes / 1e6:.1f} MB in {result.seconds:.1f} s"
            build.say(f"plan: {precision}, {made} by {runtime} {result.version}")
        if cache.is_file():
            files["timing_cache"] = cache
        facts = {
            "runtime": runtime,
            "reason": "",
            "profiles": msgspec.to_builtins(profiles),
            "plans": plans,
            "errors": errors,
            "timing_cache": {
                "pinned": hash_of(pinned) if pinned else "",
                "used": runtime == "tensorrt",
                "sha256": hash_of(cache) if cache.is_file() else "",
            },
        }
        return StepOutput(files, facts)

    def _choose(self, inputs: Inputs) -> tuple[Runtime | None, str, CudaFacts]:
        """The runtime, why there is none, and the GPUs."""
        asked = inputs.recipe.builder.runtime
        gpus = self._probe()
        if asked == "none":
            return None, 'the recipe says builder.runtime = "none"', gpus
        reasons = []
        for name in ("tensorrt", "tensorrt-rtx") if asked == "auto" else (asked,):
            runtime = _RUNTIMES[name]
            if not installed(runtime):
                reasons.append(f"{name} is not installed")
            elif runtime == "tensorrt" and not gpus.devices:
                reasons.append(f"tensorrt builds on a GPU alone ({gpus.reason or 'there is none'})")
            else:
                return runtime, "", gpus
        if asked != "auto":
            raise RecipeError(
                f"The recipe builds with {asked}: {reasons[0]}.",
                cure="pip install tensorrt-rtx-cu13, or set builder.runtime to auto.",
            )
        return None, "; ".join(reasons), gpus


def _models(build: Build) -> dict[Precision, Path]:
    """The file that each precision's plan is built of."""
    files = build.done["convert"].files
    found: dict[Precision, Path] = {}
    for precision in build.inputs.recipe.precision.make:
        model = files.get(f"{precision}_tensorrt", files.get(precision))
        if model is not None:
            found[precision] = model
    return found


def _pinned(inputs: Inputs) -> Path | None:
    if not inputs.recipe.builder.timing_cache:
        return None
    path = inputs.recipe_folder / inputs.recipe.builder.timing_cache
    if not path.is_file():
        raise RecipeError(
            f"There is no timing cache {path}.", cure="Correct builder.timing_cache, or leave it empty."
        )
    return path


def _manifest(
    build: Build, runtime: Runtime, result: PlanResult, model: Path, gpus: CudaFacts
) -> PlanManifest:
    if runtime == "tensorrt":
        major, _, minor = gpus.devices[0].compute_capability.partition(".")
        gpu, capability = gpus.devices[0].name, (int(major), int(minor))
    else:
        gpu, capability = _ANY_RTX
    return PlanManifest(
        sha256=result.sha256,
        runtime=runtime,
        runtime_version=result.version,
        gpu=gpu,
        capability=capability,
        compatibility="exact" if runtime == "tensorrt" else "ampere-plus",
        model=build.inputs.recipe.name,
        model_sha256=hash_of(model),
    )
