"""A whole pipeline whose GPU is missing, fails or dies: the CPU answers, and the reason is said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime
import pytest

from searchpipe import assemble_gpu
from searchpipe.device import usable
from searchpipe.errors import EngineError
from searchpipe.pipeline import Pipeline
from searchpipe.recall import open as recall_open
from tests.conftest import World
from tests.fakes.cuda_driver import ILLEGAL_ADDRESS, FakeDriver
from tests.runtime.gpu_world import Config, ids, on_cpu

__all__ = ["on_cpu"]


def test_auto_leaves_one_part_to_the_cpu_with_the_reason(
    world: World, gpu_config: Config, on_cpu: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_index(*arguments: Any, **options: Any) -> Any:
        raise EngineError("FAISS has a bad day.")

    monkeypatch.setattr(recall_open, "build_recall", no_index)
    text = world.queries[0]
    with Pipeline.open(world.snapshot, gpu_config("auto")) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.reasons == {"recall": "FAISS has a bad day"}
        assert pipeline.gpu.scorer is not None
        assert "recall not used: FAISS has a bad day" in pipeline.describe()
        assert ids(pipeline.search(text, budget_ms=math.inf)) == ids(on_cpu.search(text, budget_ms=math.inf))
    with pytest.raises(EngineError, match="bad day"):
        Pipeline.open(world.snapshot, gpu_config("auto", recall={"use": "always"}))


def test_a_model_that_the_gpu_does_not_run_stays_on_the_cpu(
    world: World, gpu_config: Config, fake: FakeDriver, on_cpu: Pipeline
) -> None:
    # The first allocations are the encoder's, tried with capture and without; the others have memory.
    fake.fail_call("cuMemAlloc", times=2)
    text = world.queries[0]
    with Pipeline.open(world.snapshot, gpu_config("auto")) as pipeline:
        assert pipeline.gpu is not None
        assert "No engine runs tiny on the GPU" in pipeline.gpu.reasons["encoder"]
        assert pipeline.gpu.encoder is None
        assert ids(pipeline.search(text, budget_ms=math.inf)) == ids(on_cpu.search(text, budget_ms=math.inf))
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)
    fake.fail_call("cuMemAlloc", times=2)
    with pytest.raises(EngineError, match="wants encoder on the GPU"):
        Pipeline.open(world.snapshot, gpu_config("always"))
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)


def test_a_dead_device_costs_a_stage_and_the_cpu_takes_over(
    world: World, gpu_config: Config, fake: FakeDriver, on_cpu: Pipeline
) -> None:
    text = world.queries[0]
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        assert pipeline.gpu is not None
        encoder, scorer = pipeline.gpu.encoder, pipeline.gpu.scorer
        assert encoder is not None
        assert scorer is not None
        fake.fail_work("cuGraphLaunch", code=ILLEGAL_ADDRESS)
        for _ in range(3):  # as many failures as retire an engine
            page = pipeline.search(text, budget_ms=math.inf)
            assert len(page) == 10
            assert {d.reason for d in page.degradations} <= {"stage_failed", "missing_input", "unavailable"}
            assert page.degraded
        assert encoder.chain.wait_until_serving(60)
        while scorer.chain.serving != "onnx-cpu":
            pipeline.search(text, budget_ms=math.inf)
            scorer.chain.wait_until_serving(60)
        page = pipeline.search(text, budget_ms=math.inf)
        assert ids(page) == ids(on_cpu.search(text, budget_ms=math.inf))
        # Without measured costs a finite budget goes by steps again.
        assert scorer.predict(np.array([20], np.int32)) is None
        assert len(pipeline.search(text, budget_ms=30_000)) == 10
        assert "onnx-cuda failed" in pipeline.describe()
    fake.reset()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("driver", "there is no NVIDIA driver"),
        ("onnxruntime", "was built without CUDA"),
        ("ordinal", "no CUDA device 7"),
    ],
)
def test_without_a_gpu_the_cpu_answers_and_the_reason_is_said(
    world: World,
    gpu_config: Config,
    on_cpu: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    message: str,
) -> None:
    options: dict[str, Any] = {}
    if part == "driver":
        monkeypatch.setenv("SEARCHPIPE_LIBCUDA", "libcuda-of-nowhere.so")
    elif part == "onnxruntime":
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
        monkeypatch.setattr(assemble_gpu, "faiss_without_gpu", usable.faiss_without_gpu)
    else:
        options["device"] = 7
    text = world.queries[0]
    with Pipeline.open(world.snapshot, gpu_config("auto", **options)) as pipeline:
        assert pipeline.gpu is not None
        assert not pipeline.gpu.used
        assert message in pipeline.gpu.reasons["gpu"]
        assert f"gpu        not used: {pipeline.gpu.reasons['gpu']}" in pipeline.describe()
        assert ids(pipeline.search(text, budget_ms=math.inf)) == ids(on_cpu.search(text, budget_ms=math.inf))
    with pytest.raises(EngineError, match=message):
        Pipeline.open(world.snapshot, gpu_config("always", **options))


def test_nan_of_the_engine_is_no_score(
    world: World, gpu_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        assert pipeline.gpu is not None
        chain = pipeline.gpu.scorer.chain  # type: ignore[union-attr]
        for way in ("run", "finish"):
            monkeypatch.setattr(chain, way, lambda *_, **__: np.full(100, np.nan, np.float32))
        page = pipeline.search(world.queries[0], budget_ms=30_000)
    assert ("score", "bad_scores") in [(d.stage, d.reason) for d in page.degradations]
    assert len(page) == 10
