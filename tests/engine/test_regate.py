"""An engine of the store through its gates again: on the CPU, and on a stand-in for a GPU with a plan."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime.transformers.float16
import onnxruntime.transformers.optimizer  # noqa: F401  (the stand-in has none of its own)
import pytest
from onnx import TensorProto

from searchpipe import _core
from searchpipe.engine.gates import speed
from searchpipe.engine.machine import Gpu, Machine
from searchpipe.engine.manifest import EngineManifest, RecipeFacts, Variant
from searchpipe.engine.recipe import Recipe
from searchpipe.engine.recipe_overrides import as_toml
from searchpipe.engine.regate import regate
from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import Trust
from searchpipe.engine.signing_keys import HMAC, make_key
from searchpipe.engine.step import Inputs
from searchpipe.engine.steps.check_in import GatesFailedError
from searchpipe.errors import RegistryError
from searchpipe.settings import convert
from tests.conftest import World
from tests.engine.test_gate_step import EASY, Models, gate, models  # noqa: F401
from tests.fakes import onnxruntime_cuda
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.engines import H200, engine_files, engine_manifest, machine, write_plan
from tests.fakes.tiny_onnx import TinyModel
from tests.runtime.conftest import cuda, device  # noqa: F401

PROFILE = {"rows": [1, 16, 24], "tokens": [8, 32, 64], "buckets": [[16, 32], [24, 64]], "usage": [0.7, 0.3]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BUDGET_S", 0.0)


def recipe(**gates: Any) -> Recipe:
    table = {"name": "tiny", "task": "pair", "source": {"model": "m.onnx", "max_tokens": 64}}
    return convert(table | {"precision": {"make": ["fp32", "fp16", "int8"]}, "gates": EASY | gates}, Recipe)


class Store:
    """A store with one version, of real ONNX files, and what gates it."""

    def __init__(self, root: Path, world: World, trust: Trust | None = None) -> None:
        self.registry = Registry(root, trust=trust or Trust())
        self._world = world

    def check_in(self, files: dict[str, Path], made: Recipe, **changes: Any) -> EngineManifest:
        key = self.registry.trust.keys[0] if self.registry.trust.keys else None
        text = RecipeFacts("tiny", "b" * 64, as_toml(made))
        manifest = engine_manifest(files, recipe=text, profiles=PROFILE, calibration={}, **changes)
        return self.registry.check_in(manifest, files, key=key)

    def gate(self, here: Machine | None = None, **options: Any) -> EngineManifest:
        def inputs(made: Recipe) -> Inputs:
            return Inputs(made, Path(), self._world.files.query_log, self._world.snapshot)

        said: list[str] = []
        self.said = said
        return regate(
            self.registry, "tiny", "", inputs, say=said.append, machine=here or machine(), **options
        )


def real_files(folder: Path, models: Models, int8: Path) -> dict[str, Path]:  # noqa: F811
    files = engine_files(folder)
    for role, path in (("fp32", models.fp32), ("int8", int8), ("tokenizer", models.tokenizer)):
        shutil.copyfile(path, files[role])
    return files


def test_what_passes_here_is_a_new_version_and_the_old_one_stays(
    world: World,
    models: Models,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "gate_device", lambda task: "cpu")
    key = make_key(HMAC)
    store = Store(tmp_path / "store", world, Trust((key,), required=True))
    was_slow = Variant(False, refused=("speed is 0.9, limit 1.",))
    variants = {"fp32": Variant(True, "fp32.onnx"), "fp16": was_slow, "int8": Variant(True, "int8.onnx")}
    files = real_files(tmp_path / "made", models, models.good)
    before = store.check_in(files, recipe(), variants=variants)
    with pytest.raises(RegistryError, match="signed"):
        store.gate()
    made = store.gate(key=key)
    assert (made.version, made.target, made.chosen) == ("v2", "cpu", "int8")
    assert made.signature is not None
    assert made.gates["gated_again"]["version"] == "v1"
    assert store.registry.verify("tiny", "v2").ok
    assert store.registry.manifest("tiny", "v1") == before
    # Half precision left no file to gate: it stays refused for what it was refused for.
    assert made.variants["fp16"] == was_slow
    assert set(made.gates["variants"]) == {"fp32", "int8"}


def test_what_fails_everywhere_leaves_the_store_alone(
    world: World,
    models: Models,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "gate_device", lambda task: "cpu")
    store = Store(tmp_path / "store", world)
    slow = recipe(stress_p99_ms=1e-6)
    store.check_in(real_files(tmp_path / "made", models, models.broken), slow)
    with pytest.raises(GatesFailedError, match="fp32: stress_p99_ms"):
        store.gate()
    assert len(store.registry.entries("tiny")) == 1
    (tmp_path / "store/engines/tiny/v1/int8.onnx").write_bytes(b"cut")
    with pytest.raises(RegistryError, match=r"int8\.onnx is"):
        store.gate()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, device: _core.Device) -> Gpu:  # noqa: F811
    """The GPU of this process, with stand-ins for ONNX Runtime's CUDA provider and for TensorRT."""
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime_cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    return Gpu(device.name, device.capability)


@pytest.mark.parametrize("fits", [True, False])
def test_a_plan_is_measured_on_its_gpu_and_may_then_be_picked(
    world: World,
    models: Models,  # noqa: F811
    tmp_path: Path,
    gpu: Gpu,
    fits: bool,
) -> None:
    files = engine_files(tmp_path / "made", plan=gpu)
    for role in ("fp32", "int8"):
        TinyModel(outputs=1).save_cross_encoder(files[role], integer=TensorProto.INT32)
    shutil.copyfile(models.tokenizer, files["tokenizer"])
    content = fake_tensorrt.build_plan([((1, 1), (24, 64), (24, 64))])
    version = fake_tensorrt.__version__
    write_plan(files["plan-fp16"], gpu if fits else H200, content, runtime_version=version)
    store = Store(tmp_path / "store", world)
    refused = Variant(False, plan="fp16.plan", refused=("speed is 0.9, limit 1.",))
    passed = {"fp32": Variant(True, "fp32.onnx"), "int8": Variant(True, "int8.onnx")}
    # The stand-in's scores are those of its kernel, whatever the file: the same in every precision.
    store.check_in(files, recipe(batch_diff=1.0), variants=passed | {"fp16": refused}, chosen="fp32")
    here = machine(gpu, tensorrt=version)
    made = store.gate(here)
    assert made.target == here.target
    assert made.variants["fp16"].passed is fits
    assert ("plan-fp16" in made.files) is fits
    if not fits:
        assert made.variants["fp16"].refused == refused.refused
        assert any("was built for NVIDIA H200" in line for line in store.said)
        return
    found = {gate["name"]: gate for gate in made.gates["variants"]["fp16"]["gates"]}
    assert "tensorrt" in made.gates["variants"]["fp16"]["runtime"]
    assert np.isfinite(found["gpu_memory_mib"]["value"])
    assert found["max_abs_diff"]["value"] == 0.0
    store.registry.promote("tiny", made.version)
    choice = store.registry.pick("tiny", here)
    assert choice.plan is not None
    assert choice.plan.parent.name == made.version
