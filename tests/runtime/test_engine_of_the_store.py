"""A checked-in engine behind the chain: its plan serves where it fits, its ONNX file where it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.engine import machine as machines
from searchpipe.engine.machine import Gpu
from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import Trust
from searchpipe.models import LocalModel, resolve
from searchpipe.runtime.engine_chain import EngineChain
from searchpipe.runtime.open_chain import ChainOptions, open_chain
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.engines import engine_files, engine_manifest, machine, write_plan
from tests.fakes.tiny_onnx import TinyModel
from tests.runtime.row_model import expected_texts

BUCKETS = [(4, 16), (8, 32)]
PROFILES = [((1, 1), (8, 32), (16, 64))]
TEXTS = [np.full(n, 5 + n, np.int32) for n in (3, 9, 20)]


@pytest.fixture
def gpu(device: _core.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """The GPU of this process, with TensorRT's stand-in installed."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setenv("SEARCHPIPE_STORE", str(tmp_path / "store"))
    return Gpu(device.name, device.capability)


def checked_in(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, built_with: str = "11.1.0"
) -> LocalModel:
    files = engine_files(tmp_path / "made", plan=gpu)
    for precision in ("fp32", "int8"):
        TinyModel(outputs=1).save_cross_encoder(files[precision])
    write_plan(files["plan-fp16"], gpu, fake_tensorrt.build_plan(PROFILES), runtime_version=built_with)
    registry = Registry(tmp_path / "store", trust=Trust())
    here = machine(gpu, tensorrt=fake_tensorrt.__version__)
    registry.check_in(engine_manifest(files, target=here.target), files)
    registry.promote("tiny")
    monkeypatch.setattr(machines, "this_machine", lambda: here)
    return resolve("engine:tiny")


def opened(model: LocalModel) -> EngineChain:
    return open_chain(model, ChainOptions(buckets=BUCKETS, threads=1))


def test_a_fitting_plan_serves(tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    model = checked_in(tmp_path, gpu, monkeypatch)
    assert model.plan is not None
    chain = opened(model)
    try:
        assert chain.serving == "tensorrt"
        scores = chain.run(lambda scorer: scorer.submit_texts(TEXTS, cls_id=101, sep_id=102), timeout=30)
        np.testing.assert_array_equal(scores, expected_texts(TEXTS, 1)[:, 0])
    finally:
        chain.close()


def test_a_plan_of_another_runtime_is_not_even_tried(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checked_in(tmp_path, gpu, monkeypatch, built_with="10.9.0")
    assert model.plan is None
    chain = opened(model)
    try:
        assert [state.name for state in chain.states] == ["onnx-cuda", "onnx-cpu"]
    finally:
        chain.close()


def test_a_plan_that_is_tampered_with_after_it_was_picked(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checked_in(tmp_path, gpu, monkeypatch)
    assert model.plan is not None
    model.plan.write_bytes(fake_tensorrt.build_plan(PROFILES, width=2))
    chain = opened(model)
    try:
        (refused, *_) = chain.states
        assert (refused.name, refused.state) == ("tensorrt", "failed")
        assert "has the hash" in refused.reason
        assert chain.serving in ("onnx-cuda", "onnx-cpu")
    finally:
        chain.close()
