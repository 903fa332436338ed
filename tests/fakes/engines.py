"""Small engines and steps for the tests of the factory's runner, store and command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.backends.plan_manifest import PlanManifest, manifest_path
from searchpipe.engine.machine import Gpu, Machine
from searchpipe.engine.manifest import EngineManifest, RecipeFacts, SourceModel, Variant
from searchpipe.engine.recipe import Recipe, SourceSettings
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.store_files import facts_of

H200 = Gpu("NVIDIA H200", (9, 0))
A10 = Gpu("NVIDIA A10", (8, 6))


def machine(gpu: Gpu | None = None, **runtimes: str) -> Machine:
    """A machine with ONNX Runtime, and what else is named."""
    found = {"onnxruntime": "1.27.0", **runtimes}
    driver = ("580.65", "13.0") if gpu else ("", "")
    return Machine("x86_64", "Linux", "3.11.9", {k: v for k, v in found.items() if v}, gpu, *driver)


def write_plan(path: Path, gpu: Gpu = H200, content: bytes = b"plan", **changes: Any) -> Path:
    path.write_bytes(content)
    facts: dict[str, Any] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "runtime": "tensorrt",
        "runtime_version": "11.1.0.7",
        "gpu": gpu.name,
        "capability": gpu.capability,
        **changes,
    }
    manifest_path(path).write_bytes(msgspec.json.encode(PlanManifest(**facts)))
    return path


def engine_files(folder: Path, *, salt: str = "", plan: Gpu | None = None, **changes: Any) -> dict[str, Path]:
    """Files of an engine by role: fp32 and int8 ONNX, a tokenizer, and an fp16 plan if asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for role, place in (("fp32", "fp32.onnx"), ("int8", "int8.onnx"), ("tokenizer", "tokenizer.json")):
        files[role] = folder / place
        files[role].write_text(f"{role} {salt}" * 50)
    if plan is not None:
        files["plan-fp16"] = write_plan(folder / "fp16.plan", plan, f"plan {salt}".encode(), **changes)
        files["plan-fp16-manifest"] = manifest_path(files["plan-fp16"])
    return files


def engine_manifest(files: Mapping[str, Path], name: str = "tiny", **changes: Any) -> EngineManifest:
    """What a check-in gets for :func:`engine_files`."""
    variants: dict[Any, Variant] = {
        "fp32": Variant(True, "fp32.onnx"),
        "int8": Variant(True, "int8.onnx"),
    }
    if "plan-fp16" in files:
        variants["fp16"] = Variant(True, plan="fp16.plan")
    values: dict[str, Any] = {
        "name": name,
        "task": "pair",
        "created": "2026-01-01T00:00:00Z",
        "searchpipe": "0.1.0",
        "target": "cpu",
        "model": SourceModel("minilm-l12-cross", "a" * 64, 128),
        "recipe": RecipeFacts(name, "b" * 64, "name = 'tiny'\n"),
        "chosen": "int8",
        "variants": variants,
        "calibration": {"samples": 1000, "share": 0.25},
        "built_on": machine(),
        "files": {role: facts_of(path, path.name) for role, path in files.items()},
        **changes,
    }
    return EngineManifest(**values)


def recipe(name: str = "tiny") -> Recipe:
    return Recipe(name=name, task="pair", source=SourceSettings(model="minilm-l12-cross", max_tokens=64))


@dataclass
class FakeStep:
    """A step that writes what it read; counts its runs, and may do something else first."""

    name: str
    needs: tuple[str, ...] = ()
    version: int = 1
    before: Callable[[Build], None] | None = None
    ran: list[str] = field(default_factory=list)

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        return {"version": self.version}

    def run(self, build: Build) -> StepOutput:
        self.ran.append(self.name)
        (build.folder / "half.bin").write_bytes(b"half")
        if self.before is not None:
            self.before(build)
        (build.folder / "half.bin").unlink()
        made = {need: build.done[need].facts["made"] for need in self.needs}
        text = json.dumps({"step": self.name, "version": self.version, "of": made}, sort_keys=True)
        path = build.folder / "inner" / "made.json"
        path.parent.mkdir()
        path.write_text(text)
        build.say(f"{self.name} wrote {len(text)} bytes")
        return StepOutput({"made": path}, {"made": hashlib.sha256(text.encode()).hexdigest(), "pair": (1, 2)})


def chain(*names: str) -> list[FakeStep]:
    """Steps that each need the one before."""
    return [FakeStep(name, names[place - 1 : place] if place else ()) for place, name in enumerate(names)]


GATE = {"name": "auc", "passed": True, "value": 0.001, "limit": 0.003, "reason": ""}
PASSED = {"passed": True, "gates": [GATE]}
NOT_FAST = {"name": "speed", "passed": False, "value": 0.9, "limit": 1.0, "reason": "times as fast as fp32"}
SLOW = {"passed": False, "gates": [GATE, NOT_FAST]}
WRONG = {
    "passed": False,
    "gates": [
        {"name": "worst_stratum_auc_loss", "passed": False, "value": 0.021, "limit": 0.01}
        | {"reason": "AUC loss of the worst stratum", "worst": "traffic=tail"}
    ],
}


@dataclass
class FactoryStep:
    """Stands for one of the factory's steps: gives the files and facts that the contract names."""

    name: str
    needs: tuple[str, ...]
    files: Callable[[Path], Mapping[str, Path]]
    facts: Mapping[str, Any]

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        return {"facts": dict(self.facts)}

    def run(self, build: Build) -> StepOutput:
        return StepOutput(self.files(build.folder), self.facts)


def factory_steps(
    *,
    results: Mapping[str, Any] | None = None,
    chosen: str | None = "int8",
    tokenizer: Path | None = None,
    onnx: Mapping[str, Path] | None = None,
    device: str = "cpu",
) -> list[FactoryStep]:
    """All steps before check-in, with the given outcome of the gates; ``onnx``: precision -> real file."""
    results = {"fp32": PASSED, "fp16": SLOW, "int8": PASSED} if results is None else results

    def source(folder: Path) -> dict[str, Path]:
        model, copied = folder / "model.onnx", folder / "tokenizer.json"
        model.write_bytes(b"model")
        copied.write_bytes(tokenizer.read_bytes() if tokenizer else b"{}")
        return {"model": model, "tokenizer": copied}

    def converted(folder: Path) -> dict[str, Path]:
        made = {}
        for precision in ("fp32", "fp16", "int8"):
            made[precision] = folder / f"{precision}.onnx"
            given = (onnx or {}).get(precision)
            made[precision].write_bytes(given.read_bytes() if given else precision.encode() * 100)
            if precision != "int8":
                made[f"{precision}_cuda"] = folder / f"{precision}_cuda.onnx"
                made[f"{precision}_cuda"].write_bytes(b"cuda " + precision.encode())
        return made

    def exported(folder: Path) -> dict[str, Path]:
        path = folder / "fp32.onnx"
        path.write_bytes(b"fp32")
        return {"fp32": path}

    def plans(folder: Path) -> dict[str, Path]:
        return {p: write_plan(folder / f"{p}.plan", H200, p.encode()) for p in ("fp16", "int8")}

    def page(folder: Path) -> dict[str, Path]:
        path = folder / "report.html"
        path.write_text("<p>report</p>")
        return {"html": path}

    def none(folder: Path) -> dict[str, Path]:
        return {}

    facts = {"kind": "onnx", "sha256": "c" * 64, "pooling": "", "normalize": False, "prefix": ""}
    return [
        FactoryStep("source", (), source, facts),
        FactoryStep("export", ("source",), exported, {"opset": 17}),
        FactoryStep("profile", ("export",), none, {"buckets": [[4, 16], [8, 32]]}),
        FactoryStep("calibrate", ("profile",), none, {"samples": 1000}),
        FactoryStep("convert", ("calibrate",), converted, {}),
        FactoryStep("sensitivity", ("convert",), none, {}),
        FactoryStep("plan", ("convert",), plans, {}),
        FactoryStep(
            "gate", ("convert", "plan"), none, {"variants": dict(results), "chosen": chosen, "device": device}
        ),
        FactoryStep("report", ("gate",), page, {}),
    ]
