"""The device memory of a whole pipeline: planned, refused with the figures, and all given back."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from searchpipe.errors import ClosedError, ConfigError, DeviceMemoryError, EngineError
from searchpipe.pipeline import Pipeline
from searchpipe.recall import open as recall_open
from searchpipe.runtime.device_vectors import DeviceVector, DeviceVectors
from tests.conftest import World
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.gpu_world import Config


def test_everything_is_given_back_and_closing_twice_is_fine(
    world: World, gpu_config: Config, fake: FakeDriver
) -> None:
    pipeline = Pipeline.open(world.snapshot, gpu_config())
    assert fake.device_bytes() > 0
    pipeline.search(world.queries[0])
    pipeline.close()
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)
    pipeline.close()
    with pytest.raises(ClosedError):
        pipeline.search("shoes")


def test_closing_frees_what_a_query_left_behind_still_holds(
    world: World, gpu_config: Config, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[DeviceVector | None] = []
    take = DeviceVectors.take

    def taken(self: DeviceVectors) -> DeviceVector | None:
        held.append(take(self))
        return held[-1]

    monkeypatch.setattr(DeviceVectors, "take", taken)
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        for text in world.queries[:3]:
            pipeline.search(text, budget_ms=math.inf)
        assert len({vector.address for vector in held if vector is not None}) == 3
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)


def test_what_fails_half_way_frees_what_was_opened(
    world: World, gpu_config: Config, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_index(*arguments: Any, **options: Any) -> Any:
        assert fake.device_bytes() > 0  # both models are there already
        raise EngineError("FAISS has a bad day")

    monkeypatch.setattr(recall_open, "build_recall", no_index)
    with pytest.raises(EngineError, match=r"wants recall on the GPU.*bad day"):
        Pipeline.open(world.snapshot, gpu_config())
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)
    bad_stage = {**gpu_config(), "prerank": {"weights": {"magic": 1.0}}}
    monkeypatch.undo()
    with pytest.raises((ConfigError, EngineError)):
        Pipeline.open(world.snapshot, bad_stage)
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)


def test_a_stage_that_cannot_be_built_frees_the_gpu(
    world: World, gpu_config: Config, fake: FakeDriver
) -> None:
    with pytest.raises(ConfigError, match="no feature"):
        Pipeline.open(world.snapshot, {**gpu_config(), "prerank": {"weights": {"magic": 1.0}}})
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)


def test_memory_is_planned_and_refused_with_the_figures(
    world: World, gpu_config: Config, fake: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "searchpipe.gpu"):
        with pytest.raises(DeviceMemoryError, match=r"(?s)MiB more.*scorer weights.*needed"):
            Pipeline.open(world.snapshot, gpu_config(reserve_mb=900))
        assert "scorer activations" in caplog.text
        # The models fit, but no index beside them.
        with pytest.raises(DeviceMemoryError, match=r"(?s)0 MiB are available.*scorer weights.*needed"):
            Pipeline.open(world.snapshot, gpu_config(recall={"memory_mb": 16}))
        with Pipeline.open(world.snapshot, gpu_config("auto", recall={"memory_mb": 16})) as pipeline:
            assert pipeline.gpu is not None
            assert pipeline.gpu.scorer is not None
            assert "MiB are available" in pipeline.gpu.reasons["recall"]
        assert fake.device_bytes() == 0
        with Pipeline.open(world.snapshot, gpu_config("auto", reserve_mb=900)) as pipeline:
            assert fake.device_bytes() == 0
            assert pipeline.gpu is not None
            assert "MiB more than Fake GPU" in pipeline.gpu.reasons["gpu"]
            assert len(pipeline.search(world.queries[0])) == 10
    with pytest.raises(DeviceMemoryError):
        Pipeline.open(world.snapshot, gpu_config(memory_mb=64))


def test_the_plan_covers_what_is_taken(world: World, gpu_config: Config, fake: FakeDriver) -> None:
    with Pipeline.open(world.snapshot, gpu_config(lanes=2, slots=4)) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.plan is not None
        assert 0 < fake.device_bytes() <= pipeline.gpu.plan.lasting_bytes
