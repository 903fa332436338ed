"""What a build's report holds, as its JSON file has it."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

import searchpipe
from searchpipe.backends.machine import cpu_summary, memory_summary
from searchpipe.decodable import decodable
from searchpipe.device.facts import driver_facts
from searchpipe.engine.step import Inputs, StepOutput

SCHEMA = 1

_PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "nvidia-modelopt",
    "torch",
    "transformers",
    "tokenizers",
)


class GateReport(msgspec.Struct, forbid_unknown_fields=True):
    """One gate; see :class:`searchpipe.engine.gates.result.GateResult`."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    reason: str
    interval: tuple[float | None, float | None] | None = None
    worst: str = ""
    details: dict[str, Any] = {}
    waived: bool = False


class VariantReport(msgspec.Struct, forbid_unknown_fields=True):
    """One precision: ``bytes`` of its ONNX file, and the runtime it was gated on."""

    passed: bool
    gates: list[GateReport]
    runtime: str = ""
    bytes: int = 0


class GatesReport(msgspec.Struct):
    """What the gates say; ``chosen`` is None if nothing may be used."""

    variants: dict[str, VariantReport]
    chosen: str | None
    queries: int = 0
    labelled: int = 0
    pairs: int = 0
    device: str = "cpu"


class Report(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A build's report.

    Attributes:
        schema: of this file.
        name: the recipe's.
        task: the recipe's.
        created: when, UTC, ISO 8601.
        searchpipe: version.
        recipe: as read.
        inputs: names of log, snapshot and labels, and the seed.
        machine: processor, memory, GPUs, system.
        versions: package -> version, of those that took part.
        profile: shapes, distributions, and the curve of waste over buckets.
        gates: every variant's.
        steps: facts of the other steps, by name.
    """

    schema: int
    name: str
    task: str
    created: str
    searchpipe: str
    recipe: dict[str, Any]
    inputs: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    profile: dict[str, Any]
    gates: GatesReport
    steps: dict[str, dict[str, Any]]


def gather(done: Mapping[str, StepOutput], inputs: Inputs) -> Report:
    """Put together what the steps left.

    Raises:
        OSError: the profile's file cannot be read.
    """
    profile = done.get("profile", StepOutput())
    content = dict(profile.facts)
    if "profile" in profile.files:
        content |= json.loads(profile.files["profile"].read_text("utf-8"))
    gates = done["gate"].facts if "gate" in done else {"variants": {}, "chosen": None}
    return Report(
        schema=SCHEMA,
        name=inputs.recipe.name,
        task=inputs.recipe.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        searchpipe=searchpipe.__version__,
        recipe=msgspec.to_builtins(inputs.recipe),
        inputs={
            "log": _name(inputs.log),
            "snapshot": _name(inputs.snapshot),
            "labels": _name(inputs.labels),
            "seed": inputs.seed,
        },
        machine=machine_facts(),
        versions=package_versions(),
        profile=content,
        gates=msgspec.convert(gates, decodable(GatesReport)),
        steps={name: dict(out.facts) for name, out in done.items() if name not in ("profile", "gate")},
    )


def machine_facts() -> dict[str, Any]:
    """Processor, memory, GPUs and system, each in a line."""
    found = driver_facts()
    return {
        "processor": cpu_summary(),
        "memory": memory_summary(),
        "gpus": [device.line() for device in found.devices],
        "no_gpu": found.reason,
        "cuda": ".".join(map(str, found.driver_version)) if found.available else "",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that builds depend on, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _name(path: Path | None) -> str:
    return path.name if path is not None else ""
