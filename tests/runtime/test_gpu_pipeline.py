"""A whole pipeline opened with [gpu] on the fake driver: the CPU's pages, fallbacks, memory, closing."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest

from searchpipe import _core, assemble_gpu
from searchpipe.device import usable
from searchpipe.errors import ClosedError, ConfigError, DeviceMemoryError, EngineError
from searchpipe.pipeline import Pipeline
from searchpipe.recall import open as recall_open
from tests.conftest import World
from tests.fakes.cuda_driver import ILLEGAL_ADDRESS, FakeDriver

pytest.importorskip("sympy")
faiss_gpu = pytest.importorskip("tests.fakes.faiss_gpu")

Config = Callable[..., dict[str, Any]]


@pytest.fixture
def on_cpu(world: World) -> Iterator[Pipeline]:
    with Pipeline.open(world.snapshot, {**world.config, "gpu": {"use": "never"}}) as pipeline:
        yield pipeline


def ids(page: Any) -> list[str]:
    return [hit.id for hit in page]


def test_the_page_is_the_cpus(
    world: World, gpu_config: Config, on_cpu: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        assert pipeline.gpu is not None
        assert not pipeline.gpu.reasons
        assert pipeline.gpu.recall is not None
        on_device: list[bool] = []
        search = pipeline.gpu.recall.gpu.search_many

        def searched(queries: Any, *arguments: Any, **options: Any) -> Any:
            on_device.append(hasattr(queries, "__cuda_array_interface__"))
            return search(queries, *arguments, **options)

        monkeypatch.setattr(pipeline.gpu.recall.gpu, "search_many", searched)
        for text in world.queries[:10]:
            for filters in (None, {"price": {"lte": 60}}):
                page = pipeline.search(text, k=12, budget_ms=math.inf, filters=filters)
                expected = on_cpu.search(text, k=12, budget_ms=math.inf, filters=filters)
                assert not page.degradations
                assert ids(page) == ids(expected)
                for hit, same in zip(page, expected, strict=True):
                    assert hit.scores == pytest.approx(same.scores, abs=1e-4)
        described = pipeline.describe()
        scorer = pipeline.gpu.scorer
        assert scorer is not None
        stats = scorer.chain.scorer.stats()
    assert "Fake GPU" in described
    assert "encoder: onnx-cuda" in described
    assert "pairs at once" in described
    # Vectors stay on the device, and their places are used again.
    assert pipeline.gpu.places is not None
    assert pipeline.gpu.recall is not None
    assert on_device
    assert all(on_device)
    # One request a query, however many pairs it has.
    assert (stats.requests, stats.late_rows) == (20, 0)


def test_many_callers_get_the_answers_of_one(world: World, gpu_config: Config) -> None:
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        texts = world.queries[:8]
        expected = {text: ids(pipeline.search(text, budget_ms=math.inf)) for text in texts}
        wrong = []

        def go(first: int) -> None:
            for turn in range(len(texts)):
                text = texts[(first + turn) % len(texts)]
                if ids(pipeline.search(text, budget_ms=math.inf)) != expected[text]:
                    wrong.append(text)

        threads = [threading.Thread(target=go, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


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


def test_recall_may_be_kept_off_the_gpu(world: World, gpu_config: Config) -> None:
    with Pipeline.open(world.snapshot, gpu_config(recall={"use": "never"})) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.recall is None
        assert pipeline.gpu.scorer is not None
        assert not pipeline.gpu.reasons


def test_a_finite_budget_is_one_request_and_too_small_a_one_is_said(world: World, gpu_config: Config) -> None:
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        assert pipeline.gpu is not None
        scorer = pipeline.gpu.scorer
        assert scorer is not None
        pipeline.warm_up()
        before = scorer.chain.scorer.stats().requests
        page = pipeline.search(world.queries[0], budget_ms=30_000)
        assert not page.degradations
        assert scorer.chain.scorer.stats().requests == before + 1
        page = pipeline.search(world.queries[0], budget_ms=0.01)
        assert len(page) == 10
        assert page.degraded
        assert not [d for d in page.degradations if d.reason == "stage_failed"]


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


def test_stages_of_ones_own_need_no_gpu(world: World, gpu_config: Config, fake: FakeDriver) -> None:
    class Mine:
        name, reads, writes, essential = "score", ("candidates",), ("candidates",), False

        def run(self, work: Any) -> None:
            return

        def describe(self) -> str:
            return "mine"

    with Pipeline.open(world.snapshot, gpu_config(), replace={"score": Mine()}) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.scorer is None
        assert pipeline.gpu.encoder is not None
    plain = {**gpu_config(), "pipeline": {"stages": ["recall", "page"]}}
    plain["recall"] = {"sources": ["lexical"]}
    with Pipeline.open(world.snapshot, plain) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.lines() == []
    assert fake.device_bytes() == 0


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


def test_a_model_file_that_is_not_there_is_a_mistake_of_the_configuration(
    world: World, gpu_config: Config
) -> None:
    with pytest.raises(ConfigError, match=r"gpu\.scorer\.model: there is no file nowhere\.onnx"):
        Pipeline.open(world.snapshot, gpu_config("auto", scorer={"model": "nowhere.onnx"}))


def test_nan_of_the_engine_is_no_score(
    world: World, gpu_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        assert pipeline.gpu is not None
        chain = pipeline.gpu.scorer.chain  # type: ignore[union-attr]
        monkeypatch.setattr(chain, "run", lambda submit: np.full(100, np.nan, np.float32))
        page = pipeline.search(world.queries[0], budget_ms=30_000)
    assert ("score", "bad_scores") in [(d.stage, d.reason) for d in page.degradations]
    assert len(page) == 10


def test_the_driver_of_these_tests_is_the_fake(fake: FakeDriver) -> None:
    assert _core.Device(0).name == "Fake GPU"
