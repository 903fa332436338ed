"""What a serialised TensorRT plan was built for, kept beside it; checked before the plan is touched.

A plan is code: it is only read by the runtime when its hash is the one that was
recorded, and deserialising one for another GPU or runtime costs seconds to fail.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from searchpipe.decodable import decodable
from searchpipe.errors import ModelError

if TYPE_CHECKING:
    from searchpipe import _core

Compatibility = Literal["exact", "same-capability", "ampere-plus"]
_AMPERE = 8  # major compute capability
# TensorRT-RTX serves RTX GPUs: 8.x and 12.x, by its support matrix. 9.0 and 10.x are of the data centre and
# 11.0 of Jetson; a plan is refused there when it is deserialised (seen on an H200).
_RTX_MAJORS = (8, 12)
_REBUILD = "Build the plan again on this machine."


class PlanManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Provenance of one plan.

    ``runtime`` is the distribution that built it: "tensorrt" or "tensorrt_rtx".
    ``compatibility``: "exact" (the same GPU type), "same-capability" or "ampere-plus",
    as TensorRT's HardwareCompatibilityLevel. ``version_compatible`` plans run on newer
    runtimes of the same or the next major version. Plans that carry host code
    (``host_code``) run it: they need ``allow_host_code`` to be opened.
    """

    sha256: str
    runtime: Literal["tensorrt", "tensorrt_rtx"]
    runtime_version: str
    gpu: str
    capability: tuple[int, int]
    compatibility: Compatibility = "exact"
    version_compatible: bool = False
    host_code: bool = False
    model: str = ""
    model_sha256: str = ""


def manifest_path(plan: Path) -> Path:
    """Where the manifest of ``plan`` is: NAME.plan.json."""
    return plan.with_name(plan.name + ".json")


def read_manifest(plan: Path) -> PlanManifest:
    """Read the manifest beside ``plan``.

    Raises:
        ModelError: there is none, or it is not one.
    """
    path = manifest_path(plan)
    try:
        return msgspec.json.decode(path.read_bytes(), type=decodable(PlanManifest))
    except OSError as error:
        raise ModelError(
            f"{plan} has no readable manifest {path.name}: {error.strerror or error}.",
            cure="Plans are only opened with the manifest that their build wrote.",
        ) from error
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path} is not a plan's manifest: {error}.") from error


def read_plan(
    plan: Path,
    manifest: PlanManifest,
    device: _core.Device,
    runtime: str,
    version: str,
    *,
    allow_host_code: bool = False,
) -> bytes:
    """Return the plan's bytes if this GPU and this runtime may run them.

    Args:
        plan: the file.
        manifest: from :func:`read_manifest`.
        device: the GPU that shall run it.
        runtime: "tensorrt" (also the lean runtime) or "tensorrt_rtx".
        version: of that runtime, as its ``__version__``.
        allow_host_code: open plans that carry host code.

    Raises:
        ModelError: it was built for another runtime, version or GPU, its content is
            not what was recorded, or it carries host code; the message says which.
    """
    check_fit(plan, manifest, device.name, device.capability, runtime, version)
    if manifest.host_code and not allow_host_code:
        raise ModelError(
            f"{plan} carries host code, which would run in this process.",
            cure="Allow it only for plans that you built yourself.",
        )
    try:
        content = plan.read_bytes()
    except OSError as error:
        raise ModelError(f"{plan} cannot be read: {error.strerror or error}.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise ModelError(
            f"{plan} has the hash {digest[:12]}, and its manifest says {manifest.sha256[:12]}.", cure=_REBUILD
        )
    return content


def check_fit(
    plan: Path, manifest: PlanManifest, gpu: str, capability: tuple[int, int], runtime: str, version: str
) -> None:
    """Check by the manifest alone that a GPU and a runtime may run the plan.

    Args:
        plan: the file, for messages; it is not read.
        manifest: from :func:`read_manifest`.
        gpu: name of the GPU that shall run it.
        capability: of that GPU.
        runtime: "tensorrt" (also the lean runtime) or "tensorrt_rtx".
        version: of that runtime.

    Raises:
        ModelError: it was built for another runtime, version or GPU; the message says which.
    """
    if manifest.runtime != runtime:
        raise ModelError(f"{plan} was built for {manifest.runtime}, and this is {runtime}.", cure=_REBUILD)
    if not _version_fits(manifest, version):
        raise ModelError(
            f"{plan} was built by {runtime} {manifest.runtime_version}, and this is {version}.", cure=_REBUILD
        )
    _check_gpu(plan, manifest, gpu, capability)


def _is_rtx(capability: tuple[int, int]) -> bool:
    return capability[0] in _RTX_MAJORS or capability[0] > max(_RTX_MAJORS)


def _check_gpu(plan: Path, manifest: PlanManifest, gpu: str, here: tuple[int, int]) -> None:
    there = manifest.capability
    if manifest.runtime == "tensorrt_rtx" and manifest.compatibility != "exact" and not _is_rtx(here):
        raise ModelError(
            f"{plan} needs an RTX GPU of compute capability 8.x or 12.x; TensorRT-RTX does not run on "
            f"{gpu} ({here[0]}.{here[1]}).",
            cure="Build a plan with TensorRT there, or let ONNX Runtime run the ONNX file.",
        )
    if manifest.compatibility == "exact":
        fits = gpu == manifest.gpu and here == there
    elif manifest.compatibility == "same-capability":
        fits = here == there
    else:
        fits = here[0] >= _AMPERE and here >= there
    if not fits:
        raise ModelError(
            f"{plan} was built for {manifest.gpu} (compute capability {there[0]}.{there[1]}, "
            f"{manifest.compatibility}), and this is {gpu} ({here[0]}.{here[1]}).",
            cure=_REBUILD,
        )


def _version_fits(manifest: PlanManifest, version: str) -> bool:
    built, here = _numbers(manifest.runtime_version), _numbers(version)
    if not manifest.version_compatible:
        return built == here
    return here >= built and here[0] <= built[0] + 1


def _numbers(version: str) -> tuple[int, ...]:
    """Return major, minor, patch: builds of one release run each other's plans."""
    parts = [part for part in version.split("+")[0].split(".")[:3] if part.isdigit()]
    return tuple(int(part) for part in parts) or (0,)
