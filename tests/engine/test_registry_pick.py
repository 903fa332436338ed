"""Which files a machine gets, and why it does not get the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from searchpipe.engine.machine import Gpu, Machine
from searchpipe.engine.manifest import Variant
from searchpipe.engine.pick import pick
from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import Trust
from searchpipe.errors import RegistryError
from tests.fakes.engines import A10, H200, engine_files, engine_manifest, machine


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store", trust=Trust())


def add(registry: Registry, folder: Path, salt: str, *, promote: bool = True, **changes: Any) -> str:
    plan = changes.pop("plan", None)
    needs = {
        name: changes.pop(name)
        for name in ("runtime", "runtime_version", "compatibility", "version_compatible")
        if name in changes
    }
    files = engine_files(folder / salt, salt=salt, plan=plan, **needs)
    version = registry.check_in(engine_manifest(files, **changes), files).version
    if promote:
        registry.promote("tiny", version)
    return version


def on(gpu: Any = None, **runtimes: str) -> Machine:
    return machine(gpu, **{"tensorrt": "11.1.0.7", **runtimes})


def test_the_gates_choice_on_a_cpu(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "a", plan=H200)
    choice = pick(registry, "tiny", machine())
    folder = registry.store.folder_of("tiny", "v1")
    assert (choice.model, choice.precision) == (folder / "int8.onnx", "int8")
    there = pick(registry, "tiny", on(A10))
    assert (there.gpu_model, there.gpu_prepared) == (folder / "fp32.onnx", False)
    assert choice.tokenizer == folder / "tokenizer.json"
    assert (choice.plan, choice.gpu_model) == (None, None)
    assert any(
        "fp16.plan was built for NVIDIA H200, and this machine has no GPU" in r for r in choice.reasons
    )
    assert choice.label == "tiny@v1 (int8 ONNX)"


def test_a_plan_where_it_fits(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "a", plan=H200, target="sm_90")
    choice = pick(registry, "tiny", on(H200))
    folder = registry.store.folder_of("tiny", "v1")
    assert (choice.plan, choice.plan_precision) == (folder / "fp16.plan", "fp16")
    # Its gates ran on a GPU: the file that passed is opened as it is.
    assert (choice.gpu_model, choice.gpu_prepared) == (folder / "int8.onnx", True)
    # Its gates ran on the GPU: nothing is known of int8 on this CPU.
    assert (choice.model, choice.precision) == (folder / "fp32.onnx", "fp32")
    assert choice.label == "tiny@v1 (fp32 ONNX, fp16 plan)"


@pytest.mark.parametrize(
    ("here", "needs", "reason"),
    [
        (on(A10), {}, "NVIDIA H200 (compute capability 9.0, exact), and this is NVIDIA A10 (8.6)"),
        (on(H200, tensorrt="11.2.0"), {}, "was built by tensorrt 11.1.0.7, and this is 11.2.0"),
        (on(H200, tensorrt="10.9.0"), {"version_compatible": True}, "and this is 10.9.0"),
        (on(H200, tensorrt=""), {}, "needs tensorrt, which is not installed"),
        (on(H200), {"runtime": "tensorrt_rtx"}, "needs tensorrt_rtx, which is not installed"),
    ],
)
def test_a_plan_that_does_not_fit(
    registry: Registry, tmp_path: Path, here: Machine, needs: dict[str, Any], reason: str
) -> None:
    add(registry, tmp_path, "a", plan=H200, **needs)
    choice = pick(registry, "tiny", here)
    assert choice.plan is None
    assert any(reason in told for told in choice.reasons), choice.reasons
    assert choice.model is not None


def test_a_compatible_plan_fits_other_machines(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "a", plan=A10, compatibility="ampere-plus", version_compatible=True)
    assert pick(registry, "tiny", on(H200, tensorrt="11.4.0")).plan is not None


def test_the_engine_of_the_own_architecture_comes_first(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "a", plan=H200, target="sm_90")
    add(registry, tmp_path, "b", plan=A10, target="sm_86")
    add(registry, tmp_path, "c")
    assert pick(registry, "tiny", on(H200)).manifest.version == "v1"
    assert pick(registry, "tiny", on(A10)).manifest.version == "v2"
    assert pick(registry, "tiny", machine()).manifest.version == "v3"
    newer = add(registry, tmp_path, "d", plan=H200, target="sm_90", promote=False)
    assert pick(registry, "tiny", on(H200)).manifest.version == "v1"  # not promoted
    assert pick(registry, "tiny", on(H200), newer).manifest.version == "v4"  # asked for by name
    with pytest.raises(RegistryError, match="has no version 'v9'"):
        pick(registry, "tiny", on(H200), "v9")


def test_the_file_that_passed_on_cuda(registry: Registry, tmp_path: Path) -> None:
    variants = {
        "fp32": Variant(True, "fp32.onnx"),
        "int8": Variant(False, refused=("speed: 0.8 times fp16.",)),
        "fp16": Variant(True, cuda="int8.onnx"),
    }
    add(registry, tmp_path, "a", variants=variants, chosen="fp16", target="sm_90")
    choice = pick(registry, "tiny", on(H200))
    assert (choice.gpu_model, choice.gpu_prepared) == (choice.folder / "int8.onnx", True)
    assert choice.model == choice.folder / "fp32.onnx"


def test_refused_variants_are_never_taken(registry: Registry, tmp_path: Path) -> None:
    variants = {
        "fp32": Variant(True, "fp32.onnx"),
        "int8": Variant(True, "int8.onnx"),
        "fp16": Variant(False, plan="fp16.plan", refused=("speed: 0.9 times fp32.",)),
    }
    add(registry, tmp_path, "a", plan=H200, variants=variants)
    choice = pick(registry, "tiny", on(H200))
    assert choice.plan is None
    assert any("fp16 was refused by its gates: speed: 0.9 times fp32." in r for r in choice.reasons)


def test_nothing_fits(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "a", plan=H200)
    with pytest.raises(RegistryError, match=r"No version of tiny fits .*onnxruntime, which is not installed"):
        pick(registry, "tiny", machine(A10, onnxruntime="", tensorrt="11.1.0.7"))
    only_plan = pick(registry, "tiny", on(H200, onnxruntime=""))
    assert only_plan.plan is not None
    assert (only_plan.model, only_plan.gpu_model) == (None, None)
    assert only_plan.label == "tiny@v1 (no ONNX, fp16 plan)"


def test_nothing_is_promoted(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "a", promote=False)
    with pytest.raises(RegistryError, match="searchpipe engine promote tiny"):
        pick(registry, "tiny", machine())


@pytest.mark.parametrize("file", ["fp16.plan", "fp16.plan.json", "fp32.onnx", "tokenizer.json"])
def test_a_damaged_file_is_refused_by_name(registry: Registry, tmp_path: Path, file: str) -> None:
    add(registry, tmp_path, "a", plan=H200, target="sm_90")
    path = registry.store.folder_of("tiny", "v1") / file
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(RegistryError, match=f"{file} is truncated"):
        pick(registry, "tiny", on(H200))


def test_what_a_machine_does_not_use_does_not_stop_it(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "a", plan=H200)
    (registry.store.folder_of("tiny", "v1") / "fp16.plan").write_bytes(b"")
    assert pick(registry, "tiny", machine()).precision == "int8"


def test_a_promotion_between_state_and_files_is_followed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, tmp_path, "a")
    real = registry.store.state
    stale = real("tiny")
    for salt in "bc":
        add(registry, tmp_path, salt)
    assert registry.prune("tiny", keep=1) == ["v1"]
    answers = [stale]
    monkeypatch.setattr(registry.store, "state", lambda name: answers.pop() if answers else real(name))
    assert pick(registry, "tiny", machine()).manifest.version == "v3"


@pytest.mark.parametrize(
    ("capability", "fits"),
    [((8, 6), True), ((8, 9), True), ((12, 0), True), ((9, 0), False), ((10, 0), False), ((7, 5), False)],
)
def test_plans_of_tensorrt_rtx_are_for_rtx_gpus(
    registry: Registry, tmp_path: Path, capability: tuple[int, int], fits: bool
) -> None:
    """They are portable among those, and refused by the GPUs of data centres when deserialised."""
    any_rtx = Gpu("any RTX GPU", (8, 0))
    needs = {"runtime": "tensorrt_rtx", "runtime_version": "1.7.1.116", "compatibility": "ampere-plus"}
    add(registry, tmp_path, "a", plan=any_rtx, **needs)
    choice = pick(registry, "tiny", on(Gpu("a GPU", capability), tensorrt_rtx="1.7.1.116"))
    assert (choice.plan is not None) is fits
    told = any("TensorRT-RTX does not run on a GPU" in reason for reason in choice.reasons)
    assert told is not fits
