"""Engines in order: what fails is replaced by the next, on record, with nothing lost silently."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.breaker import BreakerPolicy
from searchpipe.errors import (
    ClosedError,
    EngineError,
    EngineFailedError,
    EngineUnavailableError,
    MissingDependencyError,
    ModelError,
    PipelineError,
)
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.row_model import expected_texts, kernel_engine, row_scores

BUCKETS = [(4, 16), (8, 32)]
TEXTS = [np.full(n, 2000 + n, np.int32) for n in (3, 9, 20)]

ONCE = BreakerPolicy(failures=1)


def submit(scorer: _core.Scorer) -> _core.Ticket:
    return scorer.submit_texts(TEXTS, cls_id=101, sep_id=102)


def host_link(name: str, compute: Callable[..., None] | None = None, closed: list[str] | None = None) -> Link:
    def good(ids: np.ndarray, mask: np.ndarray, types: np.ndarray, output: np.ndarray) -> None:
        output[:] = row_scores(ids, mask, types, output.shape[1])

    def open_it() -> Opened:
        executor = _core.HostExecutor(compute or good, BUCKETS)
        return Opened(executor, lambda: closed.append(name) if closed is not None else None, f"{name} engine")

    return Link(name, open_it)


def broken_link(name: str, error: Exception) -> Link:
    def open_it() -> Opened:
        raise error

    return Link(name, open_it)


def test_the_first_that_opens_serves() -> None:
    closed: list[str] = []
    chain = EngineChain(
        [
            broken_link("tensorrt", ModelError("The plan was built for NVIDIA L4.")),
            broken_link("onnx-cuda", MissingDependencyError("no ONNX Runtime with CUDA")),
            host_link("onnx-cpu", closed=closed),
            host_link("never"),
        ]
    )
    assert chain.serving == "onnx-cpu"
    assert [(state.name, state.state) for state in chain.states] == [
        ("tensorrt", "failed"),
        ("onnx-cuda", "failed"),
        ("onnx-cpu", "serving"),
        ("never", "untried"),
    ]
    assert chain.states[0].reason == "The plan was built for NVIDIA L4."
    assert chain.states[2].description == "onnx-cpu engine"
    np.testing.assert_array_equal(chain.run(submit), expected_texts(TEXTS, 1)[:, 0])
    chain.close()
    chain.close()
    assert closed == ["onnx-cpu"]
    with pytest.raises(ClosedError):
        chain.run(submit)


def test_none_opens() -> None:
    with pytest.raises(EngineError, match=r"No engine could be opened. a: first reason b: second reason"):
        EngineChain(
            [broken_link("a", EngineError("first reason")), broken_link("b", OSError("second reason"))]
        )
    with pytest.raises(PipelineError, match="at least one"):
        EngineChain([])


def test_three_failures_in_a_row_retire_an_engine() -> None:
    calls: list[int] = []

    def flaky(ids: np.ndarray, mask: np.ndarray, types: np.ndarray, output: np.ndarray) -> None:
        calls.append(1)
        if len(calls) in (1, 2, 4, 5, 6):
            raise RuntimeError(f"illegal address {len(calls)}")
        output[:] = row_scores(ids, mask, types, output.shape[1])

    closed: list[str] = []
    chain = EngineChain([host_link("first", flaky, closed), host_link("second")])
    for works in (False, False, True, False, False, False):
        if works:
            chain.run(submit)
        else:
            with pytest.raises(EngineError, match="Engine first: RuntimeError: illegal address"):
                chain.run(submit)
    assert chain.wait_until_serving(30)
    assert chain.serving == "second"
    np.testing.assert_array_equal(chain.run(submit), expected_texts(TEXTS, 1)[:, 0])
    first = chain.states[0]
    assert (first.state, first.reason) == ("failed", "RuntimeError: illegal address 6")
    chain.close()
    assert closed == ["first"]


def test_a_dead_gpu_is_replaced_by_the_host(device: _core.Device, fake: FakeDriver) -> None:
    def open_gpu() -> Opened:
        engine = kernel_engine(device, BUCKETS, [])
        return Opened(_core.StagingRing([engine]), engine.close)

    chain = EngineChain([Link("gpu", open_gpu), host_link("cpu")])
    np.testing.assert_array_equal(chain.run(submit), expected_texts(TEXTS, 1)[:, 0])
    fake.fail_work("cuGraphLaunch")
    for _ in range(3):
        with pytest.raises(EngineError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            chain.run(submit)
    assert chain.wait_until_serving(30)
    np.testing.assert_array_equal(chain.run(submit), expected_texts(TEXTS, 1)[:, 0])
    assert chain.serving == "cpu"
    chain.close()
    fake.reset()


def test_while_the_next_one_opens_nobody_waits() -> None:
    gate = threading.Event()

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    def slow() -> Opened:
        assert gate.wait(30)
        return host_link("second").open()

    chain = EngineChain([host_link("first", fail), Link("second", slow)], policy=ONCE)
    with pytest.raises(EngineError, match="broken"):
        chain.run(submit)
    with pytest.raises(EngineError, match=r"No engine is ready\. first: RuntimeError: broken"):
        chain.run(submit)
    assert chain.serving == ""
    gate.set()
    assert chain.wait_until_serving(30)
    chain.run(submit)
    chain.close()


def test_when_all_have_failed_it_says_so() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    chain = EngineChain([host_link("only", fail)], policy=ONCE)
    with pytest.raises(EngineError):
        chain.run(submit)
    assert not chain.wait_until_serving(30)
    with pytest.raises(EngineError, match=r"No engine is ready\. only: RuntimeError: broken"):
        chain.run(submit)
    chain.close()


def test_closing_while_the_next_one_opens() -> None:
    closed: list[str] = []

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    chain = EngineChain(
        [host_link("first", fail, closed), host_link("second", None, closed)],
        policy=ONCE,
    )
    with pytest.raises(EngineError):
        chain.run(submit)
    chain.close()
    assert "first" in closed
    with pytest.raises(ClosedError):
        chain.run(submit)


def test_waiting_has_a_limit(device: _core.Device, fake: FakeDriver) -> None:
    engine = kernel_engine(device, BUCKETS, [])
    ring = _core.StagingRing([engine])
    chain = EngineChain([Link("gpu", lambda: Opened(ring, engine.close))])
    fake.hold()
    with pytest.raises(TimeoutError, match=r"within 0.05 s"):
        chain.run(submit, timeout=0.05)
    fake.hold(False)
    assert len(chain.run(submit, timeout=30)) == 3
    chain.close()


def test_an_event_loop_serves_many_and_may_give_up() -> None:
    chain = EngineChain([host_link("cpu")])

    async def main() -> None:
        found = await asyncio.gather(*(chain.run_async(submit) for _ in range(20)))
        for scores in found:
            np.testing.assert_array_equal(scores, expected_texts(TEXTS, 1)[:, 0])
        task = asyncio.create_task(chain.run_async(submit))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    chain.close()


def test_callers_of_a_link_that_is_retired_hear_of_an_engine_error() -> None:
    broken = threading.Event()

    def flaky(ids: np.ndarray, mask: np.ndarray, types: np.ndarray, output: np.ndarray) -> None:
        if broken.is_set():
            raise RuntimeError("illegal address")
        output[:] = row_scores(ids, mask, types, output.shape[1])

    chain = EngineChain([host_link("first", flaky), host_link("second")])
    answered: list[int] = []
    raised: list[Exception] = []

    def call() -> None:
        while len(answered) < 400:
            try:
                np.testing.assert_array_equal(chain.run(submit), expected_texts(TEXTS, 1)[:, 0])
                answered.append(1)
            except Exception as error:
                raised.append(error)
            if len(answered) == 100:
                broken.set()

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert chain.serving == "second"
    assert raised
    assert {type(error) for error in raised} <= {EngineFailedError, EngineUnavailableError}
    chain.close()
