"""The engines' part of the ladder: a fault costs an answer its scores, the next engine gives them back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from searchpipe import _core
from searchpipe.backends.plan_manifest import PlanManifest, manifest_path
from searchpipe.breaker import BreakerPolicy
from searchpipe.errors import OverloadedError
from searchpipe.pipeline import Pipeline
from searchpipe.runtime import open_chain
from searchpipe.runtime.engine_chain import EngineChain
from tests.conftest import World
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.cuda_driver import OUT_OF_MEMORY, FakeDriver
from tests.fakes.faults import Clock, Fault
from tests.test_ladder import order, reasons

POLICY = BreakerPolicy(failures=3, cool_down_s=0.05, max_cool_down_s=0.1, probes=2)
MAX_QUEUED_ROWS = 250
STAGES = ["tokenize", "recall", "prerank", "score", "page"]


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.001)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the engines' breakers: nothing is tried again before it is told to go on."""
    clock = Clock()
    options = {"policy": POLICY, "clock": clock, "max_queued_rows": MAX_QUEUED_ROWS}
    monkeypatch.setattr(open_chain, "EngineChain", partial(EngineChain, **options))
    return clock


@pytest.fixture
def plan(tmp_path: Path, device: _core.Device, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TensorRT plan for this GPU."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    plan = tmp_path / "scorer.plan"
    plan.write_bytes(fake_tensorrt.build_plan([((1, 1), (64, 64), (512, 128))]))
    facts: dict[str, Any] = {
        "sha256": hashlib.sha256(plan.read_bytes()).hexdigest(),
        "runtime": "tensorrt",
        "runtime_version": "11.1.0.7",
        "gpu": device.name,
        "capability": device.capability,
    }
    manifest_path(plan).write_bytes(msgspec.json.encode(PlanManifest(**facts)))
    return plan


@pytest.fixture
def config(gpu_config: Callable[..., dict[str, Any]], plan: Path) -> dict[str, Any]:
    """Only the scorer is on the GPU, so that every call of the driver is the scorer's."""
    settings = gpu_config("auto", scorer={"plan": str(plan)})
    return {**settings, "pipeline": {"stages": STAGES, "threads": 8}, "recall": {"sources": ["lexical"]}}


@pytest.fixture
def pipeline(world: World, config: dict[str, Any], clock: Clock) -> Iterator[Pipeline]:
    with Pipeline.open(world.snapshot, config) as opened:
        yield opened


def chain_of(pipeline: Pipeline) -> EngineChain:
    assert pipeline.gpu is not None
    assert pipeline.gpu.scorer is not None, pipeline.gpu.reasons
    return pipeline.gpu.scorer.chain


def ask(pipeline: Pipeline, text: str, **options: Any) -> Any:
    return pipeline.search(text, budget_ms=math.inf, **options)


def retire(pipeline: Pipeline, fake: FakeDriver, text: str) -> None:
    """Let the engine that serves fail as often as it takes; each failure costs one answer its scores."""
    fake.fail_call("cuGraphLaunch", times=POLICY.failures, code=OUT_OF_MEMORY)
    for _ in range(POLICY.failures):
        page = ask(pipeline, text)
        assert reasons(page) == [("score", "stage_failed")]
        assert "OUT_OF_MEMORY" in page.degradations[0].given_up
        assert order(page) == order(ask(pipeline, text, without=["score"]))
    assert chain_of(pipeline).wait_until_serving(30)


def test_each_engine_is_followed_by_the_next_and_the_best_comes_back(
    world: World, pipeline: Pipeline, fake: FakeDriver, clock: Clock
) -> None:
    text, chain = world.queries[0], chain_of(pipeline)
    first = ask(pipeline, text)
    served = [chain.serving]
    assert served == ["tensorrt"]
    assert not first.degradations
    while chain.serving != "onnx-cpu":
        retire(pipeline, fake, text)
        served.append(chain.serving)
        assert not ask(pipeline, text).degradations  # the very next answer is whole
    assert [name for name in served if "packed" not in name] == ["tensorrt", "onnx-cuda", "onnx-cpu"]
    assert chain.fallbacks >= 2
    with Pipeline.open(world.snapshot, {**world.config, **CPU}) as on_cpu:
        assert order(ask(pipeline, text)) == order(ask(on_cpu, text))
    # The engines' own breakers have dealt with it: the stage's has nothing to say.
    assert {one.trips for one in pipeline.breakers.reports()} == {0}
    clock.advance(1.0)
    until(lambda: chain.states[0].state == "probing")
    for _ in range(POLICY.probes):
        assert chain.serving == "onnx-cpu"
        assert not ask(pipeline, text).degradations  # trials that nobody sees
    assert chain.serving == "tensorrt"
    assert (chain.returns, order(ask(pipeline, text))) == (1, order(first))


CPU = {
    "gpu": {"use": "never"},
    "pipeline": {"stages": STAGES},
    "recall": {"sources": ["lexical"]},
}


def test_a_trial_that_fails_is_answered_by_the_one_that_serves(
    world: World, pipeline: Pipeline, fake: FakeDriver, clock: Clock
) -> None:
    text, chain = world.queries[0], chain_of(pipeline)
    retire(pipeline, fake, text)
    serving, whole = chain.serving, order(ask(pipeline, text))
    clock.advance(1.0)
    until(lambda: chain.states[0].state == "probing")
    fake.fail_call("cuGraphLaunch", code=OUT_OF_MEMORY)  # the trial's
    page = ask(pipeline, text)
    assert (order(page), page.degradations) == (whole, ())
    assert (chain.serving, chain.states[0].breaker, chain.states[0].trips) == (serving, "open", 2)


def test_what_does_not_fit_when_the_pipeline_opens_comes_later(
    world: World, config: dict[str, Any], fake: FakeDriver, clock: Clock
) -> None:
    fake.fail_call("cuMemAlloc", times=2, code=OUT_OF_MEMORY)  # with captured graphs, and without
    with Pipeline.open(world.snapshot, config) as pipeline:
        chain = chain_of(pipeline)
        assert chain.serving not in ("tensorrt", "onnx-cpu")
        assert "OUT_OF_MEMORY" in chain.states[0].reason
        assert not ask(pipeline, world.queries[0]).degradations
        clock.advance(1.0)
        until(lambda: chain.states[0].state == "probing")
        for _ in range(POLICY.probes):
            assert not ask(pipeline, world.queries[0]).degradations
        assert chain.serving == "tensorrt"


def test_a_full_queue_of_the_scorer_costs_the_scores_and_nothing_waits(
    world: World, pipeline: Pipeline, fake: FakeDriver
) -> None:
    text, scorer = world.queries[0], chain_of(pipeline).scorer
    whole = order(ask(pipeline, text))
    fake.hold()
    tokens = [np.full(8, 5, np.int32)] * 10
    waiting = []
    for slot in range(pipeline.config.gpu.slots):  # once all are taken, what waits stays in the queue
        waiting.append(scorer.submit_texts(tokens, cls_id=1, sep_id=2))
        until(lambda slot=slot: scorer.stats().batches_in_flight > slot)
    with contextlib.suppress(OverloadedError):
        while True:
            waiting.append(scorer.submit_texts(tokens, cls_id=1, sep_id=2))
    page = ask(pipeline, text)
    assert reasons(page) == [("score", "busy")]
    assert order(page) == order(ask(pipeline, text, without=["score"]))
    fake.hold(False)
    for ticket in waiting:
        assert ticket.wait(30)
    page = ask(pipeline, text)
    assert (order(page), page.degradations) == (whole, ())
    assert chain_of(pipeline).serving == "tensorrt"
    assert {one.state for one in pipeline.breakers.reports()} == {"closed"}


def test_rows_of_a_query_whose_caller_has_left_are_never_computed(
    world: World, pipeline: Pipeline, fake: FakeDriver
) -> None:
    text, scorer = world.queries[0], chain_of(pipeline).scorer
    whole = order(ask(pipeline, text))
    before = scorer.stats().rows

    async def leave() -> list[Any]:
        async def queue() -> asyncio.Task[Any]:
            requests = scorer.stats().requests
            task = asyncio.create_task(pipeline.asearch(text, budget_ms=math.inf))
            while scorer.stats().requests == requests:
                await asyncio.sleep(0.001)
            return task

        staying: list[asyncio.Task[Any]] = []
        for slot in range(pipeline.config.gpu.slots):
            staying.append(await queue())
            while scorer.stats().batches_in_flight <= slot:
                await asyncio.sleep(0.001)
        leaving = await queue()
        staying.append(await queue())
        running = pipeline.load[0]
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        while pipeline.load[0] == running:  # its thread is free while the device still stands
            await asyncio.sleep(0.001)
        fake.hold(False)
        return await asyncio.gather(*staying)

    fake.hold()
    pages = asyncio.run(leave())
    assert [order(page) for page in pages] == [whole] * len(pages)
    pairs = sum(span.units for page in pages for span in page.trace.spans)
    assert scorer.stats().rows - before == pairs
    assert {one.state for one in pipeline.breakers.reports()} == {"closed"}


@pytest.fixture
def with_recall(
    world: World, gpu_config: Callable[..., dict[str, Any]], clock: Clock
) -> Iterator[tuple[Pipeline, Fault]]:
    """A pipeline with its index on the GPU, one lookup a search and one that may wait; and a fault there."""
    settings = gpu_config(recall={"max_batch": 1, "max_waiting": 1})
    with Pipeline.open(world.snapshot, {**settings, "pipeline": {"threads": 4}}) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.recall is not None
        pipeline.gpu.recall.index._breaker._clock = clock
        pipeline.gpu.recall.dispatcher._begin = None  # so that every lookup is in a batch
        yield pipeline, Fault(pipeline.gpu.recall.dispatcher._index, "search_batch")


def test_an_index_that_fails_on_the_gpu_is_answered_by_the_cpu_and_tried_again(
    world: World, with_recall: tuple[Pipeline, Fault], clock: Clock
) -> None:
    pipeline, fault = with_recall
    text = world.queries[0]
    whole = order(ask(pipeline, text))
    calls = fault.calls
    fault.fail(RuntimeError("CUDA error 2"))
    for _ in range(6):
        page = ask(pipeline, text)
        assert (order(page), reasons(page)) == (whole, [("recall", "unavailable")])
        assert page.degradations[0].amount == 0.0  # nothing is missing
        assert "CUDA error 2" in page.degradations[0].given_up
    assert fault.calls - calls == 3  # then it rests
    fault.heal()
    clock.advance(30.0)
    page = ask(pipeline, text)
    assert (order(page), page.degradations) == (whole, ())


def test_a_full_queue_of_the_index_is_answered_by_the_cpu_and_who_leaves_is_dropped(
    world: World, with_recall: tuple[Pipeline, Fault]
) -> None:
    pipeline, fault = with_recall
    assert pipeline.gpu is not None
    assert pipeline.gpu.recall is not None
    dispatcher, text = pipeline.gpu.recall.dispatcher, world.queries[0]
    whole = order(ask(pipeline, text))
    inside, go = threading.Semaphore(0), threading.Event()

    def hold(found: Any, *_: Any) -> Any:
        inside.release()
        assert go.wait(30)
        return found

    async def leave() -> None:
        waiting = asyncio.create_task(pipeline.asearch(text, budget_ms=math.inf))
        while not dispatcher.stats().waiting:
            await asyncio.sleep(0.001)
        page = await asyncio.to_thread(ask, pipeline, text)  # one too many
        assert (order(page), reasons(page)) == (whole, [("recall", "unavailable")])
        assert "lookups wait" in page.degradations[0].given_up
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while dispatcher.stats().waiting:
            await asyncio.sleep(0.001)

    lookups, calls = dispatcher.stats().lookups, fault.calls
    fault.change(hold)
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(ask, pipeline, text)
        assert inside.acquire(timeout=30)
        asyncio.run(leave())
        go.set()
        assert order(leading.result(30)) == whole
    assert (dispatcher.stats().lookups - lookups, fault.calls - calls) == (1, 1)
    assert dispatcher.stats().dropped == 1
    fault.heal()
    page = ask(pipeline, text)
    assert (order(page), page.degradations) == (whole, ())
