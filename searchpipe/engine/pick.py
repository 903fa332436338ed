"""Which promoted engine, and which of its files, fits a machine; and why the others do not.

The engine promoted for the machine's own architecture comes first, then those of others, the last
promoted first: their ONNX files run anywhere with ONNX Runtime, and some plans do on other GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from searchpipe.backends.plan_manifest import check_fit, manifest_path, read_manifest
from searchpipe.engine.machine import Machine
from searchpipe.engine.manifest import EngineManifest
from searchpipe.engine.recipe import Precision
from searchpipe.engine.registry import Registry
from searchpipe.engine.store_files import state_of
from searchpipe.engine.store_state import State
from searchpipe.errors import ModelError, RegistryError

# A promotion and a prune may happen between reading the state and the files.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine's files for one machine; every file named was verified. Immutable.

    Attributes:
        manifest: of the version chosen.
        folder: where its files are.
        model: ONNX file for the CPU; None where ONNX Runtime is missing.
        precision: of ``model``.
        plan: TensorRT plan that this GPU and runtime can run; None for none.
        plan_precision: of ``plan``.
        gpu_model: ONNX file for ONNX Runtime's CUDA provider; None without a GPU.
        gpu_prepared: whether ``gpu_model`` is opened as it is, having passed its gates on a GPU;
            otherwise it is the float32 file, to be prepared there.
        tokenizer: None for a model that reads no text.
        reasons: why other promoted versions and other files were not taken, a sentence each.
    """

    manifest: EngineManifest
    folder: Path
    model: Path | None
    precision: Precision
    plan: Path | None
    plan_precision: Precision | None
    gpu_model: Path | None
    gpu_prepared: bool
    tokenizer: Path | None
    reasons: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of ``model``; empty without one."""
        place = self.manifest.variants[self.precision].onnx if self.model else ""
        return next((facts.sha256 for facts in self.manifest.files.values() if facts.path == place), "")

    @property
    def label(self) -> str:
        """Name, version and precisions, for messages and traces."""
        plan = f", {self.plan_precision} plan" if self.plan else ""
        onnx = f"{self.precision} ONNX" if self.model else "no ONNX"
        return f"{self.manifest.name}@{self.manifest.version} ({onnx}{plan})"


def pick(registry: Registry, name: str, machine: Machine, version: str = "") -> Choice:
    """Choose for a machine among the promoted versions of an engine.

    Args:
        registry: the store, and which signatures it asks for.
        name: of the engine.
        machine: that shall run it.
        version: this one, promoted or not; empty to choose.

    Raises:
        RegistryError: unknown engine, none promoted, none fits (with every reason), or a file of the
            one that fits is missing, truncated or changed, or its signature is refused.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        state = registry.store.state(name)
        try:
            return _pick(registry, name, machine, state, version)
        except RegistryError:
            if attempt == _ATTEMPTS or registry.store.state(name).number == state.number:
                raise
    raise AssertionError("the last attempt returns or raises")


def _pick(registry: Registry, name: str, machine: Machine, state: State, version: str) -> Choice:
    reasons: list[str] = []
    for candidate in _ordered(registry, name, machine, state, version):
        manifest = registry.manifest(name, candidate)
        choice = _fit(manifest, registry.store.folder_of(name, candidate), machine, reasons)
        if choice is None:
            continue
        used = (choice.model, choice.plan, choice.gpu_model, choice.tokenizer)
        places = {path.relative_to(choice.folder).as_posix() for path in used if path is not None}
        registry.good_manifest(name, candidate, places)
        return choice
    raise RegistryError(
        f"No version of {name} fits this machine ({machine.line()}). {' '.join(reasons)}",
        cure="Build the engine here, or install the runtime that is missing.",
    )


def _ordered(registry: Registry, name: str, machine: Machine, state: State, version: str) -> list[str]:
    if version:
        return [registry.store.known(name, version, state)]
    if not state.slots:
        raise RegistryError(
            f"No version of {name} is promoted.", cure=f"Promote one: searchpipe engine promote {name}."
        )
    targets = sorted(state.slots, key=lambda t: (t != machine.target, -state.slots[t].since))
    return list(dict.fromkeys(state.slots[target].version for target in targets))


def _fit(manifest: EngineManifest, folder: Path, machine: Machine, reasons: list[str]) -> Choice | None:
    """The files of one version that fit; None, with the reasons, if nothing of it runs here."""
    what = f"{manifest.name}@{manifest.version}"
    reasons.extend(
        f"{what} {precision} was refused by its gates: {' '.join(variant.refused)}"
        for precision, variant in manifest.variants.items()
        if not variant.passed
    )
    plan, plan_precision = _plan(manifest, folder, machine, reasons)
    precision = _cpu_precision(manifest, machine, reasons)
    onnx = "onnxruntime" in machine.runtimes
    if not onnx:
        reasons.append(f"{what}: its ONNX files need onnxruntime, which is not installed.")
        if plan is None:
            return None
    tokenizer = manifest.files.get("tokenizer")
    on_gpu, prepared = _cuda(manifest)
    return Choice(
        manifest=manifest,
        folder=folder,
        model=folder / manifest.variants[precision].onnx if onnx else None,
        precision=precision,
        plan=plan,
        plan_precision=plan_precision,
        gpu_model=folder / on_gpu if onnx and machine.gpu else None,
        gpu_prepared=prepared,
        tokenizer=folder / tokenizer.path if tokenizer else None,
        reasons=tuple(reasons),
    )


def _plan(
    manifest: EngineManifest, folder: Path, machine: Machine, reasons: list[str]
) -> tuple[Path | None, Precision | None]:
    known = {facts.path: facts for facts in manifest.files.values()}
    for precision in manifest.passed():
        place = manifest.variants[precision].plan
        if not place:
            continue
        plan = folder / place
        beside = manifest_path(plan)
        found = state_of(beside, known[beside.relative_to(folder).as_posix()])
        if found != "ok":
            raise RegistryError(f"{beside} is {found}.", cure="Roll back, or build the engine again.")
        needs = read_manifest(plan)
        version = machine.runtimes.get(needs.runtime)
        if machine.gpu is None:
            reasons.append(f"{plan} was built for {needs.gpu}, and this machine has no GPU.")
        elif version is None:
            reasons.append(f"{plan} needs {needs.runtime}, which is not installed.")
        else:
            try:
                check_fit(plan, needs, machine.gpu.name, machine.gpu.capability, needs.runtime, version)
            except ModelError as error:
                reasons.append(str(error))
            else:
                return plan, precision
    return None, None


def _cuda(manifest: EngineManifest) -> tuple[str, bool]:
    """Place of the file for the CUDA provider, and whether it is the very one that was gated."""
    if manifest.target != "cpu":
        for precision in manifest.passed():
            variant = manifest.variants[precision]
            if variant.cuda or variant.onnx:
                return variant.cuda or variant.onnx, True
    return manifest.variants["fp32"].onnx, False


def _cpu_precision(manifest: EngineManifest, machine: Machine, reasons: list[str]) -> Precision:
    """What the gates chose if they ran on a CPU; fp32 if on a GPU, which says nothing of a CPU."""
    if manifest.target == "cpu" or manifest.chosen == "fp32":
        return manifest.chosen
    if machine.gpu is None:
        reasons.append(
            f"{manifest.name}@{manifest.version} {manifest.chosen} won its gates on {manifest.target}; "
            "on a CPU its float32 file is taken."
        )
    return "fp32"
