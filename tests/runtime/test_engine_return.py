"""The better engine comes back by half-open probes; callers see neither the trials nor the change."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.breaker import BreakerPolicy
from searchpipe.errors import EngineError, EngineUnavailableError, ModelError
from searchpipe.runtime import chain_outcomes
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.fakes.cuda_driver import OUT_OF_MEMORY, FakeDriver
from tests.runtime.row_model import expected_texts, kernel_engine, row_scores
from tests.runtime.test_engine_chain import BUCKETS, TEXTS, submit

EXPECTED = expected_texts(TEXTS, 1)[:, 0]
QUICK = BreakerPolicy(failures=2, cool_down_s=0.02, max_cool_down_s=0.1, probes=3)


class Engine:
    """A host engine that breaks in the way it is told."""

    def __init__(self, name: str) -> None:
        self.name, self.fault = name, ""
        self.opened = self.closed = self.calls = 0
        self.refuse: Exception | None = None

    def link(self) -> Link:
        return Link(self.name, self.open)

    def open(self) -> Opened:
        if self.refuse is not None:
            raise self.refuse
        assert self.closed == self.opened, "opened twice at once"
        self.opened += 1
        return Opened(_core.HostExecutor(self.compute, BUCKETS), self.close, self.name)

    def close(self) -> None:
        self.closed += 1

    def compute(self, ids: Any, mask: Any, types: Any, output: Any) -> None:
        self.calls += 1
        if self.fault == "raise":
            raise RuntimeError("out of memory")
        output[:] = np.nan if self.fault == "nan" else row_scores(ids, mask, types, output.shape[1])


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.001)


@pytest.fixture
def engines() -> list[Engine]:
    return [Engine("gpu"), Engine("cpu")]


@pytest.fixture
def chain(engines: list[Engine]) -> Iterator[EngineChain]:
    opened = EngineChain([engine.link() for engine in engines], policy=QUICK)
    yield opened
    opened.close()


def fall_back(chain: EngineChain, engine: Engine, fault: str = "raise") -> None:
    engine.fault = fault
    while chain.serving != "cpu":
        try:
            chain.run(submit)
        except EngineError:
            chain.wait_until_serving(30)


def state(chain: EngineChain, place: int) -> str:
    return chain.states[place].state


@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_it_comes_back_and_nobody_notices(chain: EngineChain, engines: list[Engine], fault: str) -> None:
    gpu, cpu = engines
    fall_back(chain, gpu, fault)
    assert chain.fallbacks == 1
    # Trials fail for a while; the serving engine answers those requests.
    until(lambda: state(chain, 0) == "probing")
    before = gpu.calls
    np.testing.assert_array_equal(chain.run(submit), EXPECTED)
    assert gpu.calls == before + 1
    assert state(chain, 0) != "probing"
    gpu.fault = ""
    until(lambda: state(chain, 0) == "probing")
    for _ in range(QUICK.probes):
        assert chain.serving == "cpu"
        np.testing.assert_array_equal(chain.run(submit), EXPECTED)
    assert chain.serving == "gpu"
    assert (chain.fallbacks, chain.returns) == (1, 1)
    assert chain.states[0].breaker == "closed"
    until(lambda: cpu.closed == 1)
    # And it may fall back again.
    fall_back(chain, gpu)
    np.testing.assert_array_equal(chain.run(submit), EXPECTED)


def test_an_event_loop_tries_it_too(chain: EngineChain, engines: list[Engine]) -> None:
    fall_back(chain, engines[0])
    until(lambda: state(chain, 0) == "probing")
    np.testing.assert_array_equal(asyncio.run(chain.run_async(submit)), EXPECTED)  # a trial that failed
    engines[0].fault = ""
    until(lambda: state(chain, 0) == "probing")
    for _ in range(QUICK.probes):
        np.testing.assert_array_equal(asyncio.run(chain.run_async(submit)), EXPECTED)
    assert chain.serving == "gpu"


def test_under_load_every_answer_is_right_through_fall_and_return(
    chain: EngineChain, engines: list[Engine]
) -> None:
    stop, wrong = threading.Event(), []
    refused: list[BaseException] = []

    def call() -> None:
        while not stop.is_set():
            try:
                if not np.array_equal(chain.run(submit), EXPECTED):
                    wrong.append(1)
            except EngineError as error:
                refused.append(error)
            except BaseException as error:
                wrong.append(error)

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for turn in range(1, 4):
        engines[0].fault = "raise"
        until(lambda: chain.serving == "cpu")
        count = len(refused)
        engines[0].fault = ""
        until(lambda turn=turn: chain.returns == turn)
        assert len(refused) <= count + len(callers)  # those in flight at the fall; none by the return
    stop.set()
    for caller in callers:
        caller.join(30)
        assert not caller.is_alive()
    assert not wrong


def test_what_does_not_fit_at_first_is_opened_later(engines: list[Engine]) -> None:
    gpu, cpu = engines
    gpu.refuse = EngineError("cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory")
    chain = EngineChain([gpu.link(), cpu.link()], policy=QUICK)
    assert (chain.serving, chain.states[0].lost) == ("cpu", False)
    gpu.refuse = None
    until(lambda: state(chain, 0) == "probing")
    for _ in range(QUICK.probes):
        chain.run(submit)
    assert chain.serving == "gpu"
    chain.close()
    until(lambda: gpu.opened == gpu.closed and cpu.opened == cpu.closed)


def test_a_plan_that_does_not_fit_is_not_tried_again(engines: list[Engine]) -> None:
    engines[0].refuse = ModelError("The plan was built for NVIDIA L4.")
    chain = EngineChain([engine.link() for engine in engines], policy=QUICK)
    assert chain.states[0].lost
    time.sleep(3 * QUICK.cool_down_s)
    chain.run(submit)
    assert (state(chain, 0), engines[0].opened) == ("failed", 0)
    chain.close()


def test_when_all_have_failed_the_first_that_can_comes_back(
    chain: EngineChain, engines: list[Engine]
) -> None:
    engines[1].refuse = OSError("no file")
    engines[0].fault = "raise"
    for _ in range(QUICK.failures):
        with pytest.raises(EngineError, match="out of memory"):
            chain.run(submit)
    engines[0].fault = ""

    def works() -> bool:
        try:
            return np.array_equal(chain.run(submit), EXPECTED)
        except EngineError:
            return False

    until(works)


def test_a_dead_context_is_lost_and_never_opened_again(
    device: _core.Device, fake: FakeDriver, engines: list[Engine]
) -> None:
    opens: list[int] = []

    def open_gpu() -> Opened:
        opens.append(1)
        engine = kernel_engine(device, BUCKETS, [])
        return Opened(
            _core.StagingRing([engine]),
            engine.close,
            on_gpu=True,
            check=lambda: _core.Stream(device) and None,
        )

    chain = EngineChain([Link("gpu", open_gpu), engines[1].link()], policy=QUICK)
    fake.fail_work("cuGraphLaunch", code=600)  # a code whose name says nothing: the device is asked
    for _ in range(2):
        with pytest.raises(EngineError):
            chain.run(submit)
    until(lambda: chain.states[0].lost)
    assert chain.wait_until_serving(30)
    time.sleep(3 * QUICK.cool_down_s)
    np.testing.assert_array_equal(chain.run(submit), EXPECTED)
    assert (len(opens), chain.serving, state(chain, 0)) == (1, "cpu", "failed")
    chain.close()
    fake.reset()


def gpu_chain(device: _core.Device, cpu: Engine, policy: BreakerPolicy) -> EngineChain:
    def open_gpu() -> Opened:
        engine = kernel_engine(device, BUCKETS, [])
        return Opened(
            _core.StagingRing([engine]),
            engine.close,
            on_gpu=True,
            check=lambda: _core.Stream(device) and None,
        )

    return EngineChain([Link("gpu", open_gpu), cpu.link()], policy=policy)


def test_a_device_that_recovers_from_out_of_memory_comes_back(
    device: _core.Device, fake: FakeDriver, engines: list[Engine]
) -> None:
    chain = gpu_chain(device, engines[1], QUICK)
    fake.fail_call("cuGraphLaunch", times=2, code=OUT_OF_MEMORY)
    for _ in range(2):
        with pytest.raises(EngineError, match="OUT_OF_MEMORY"):
            chain.run(submit)
    assert chain.wait_until_serving(30)
    until(lambda: state(chain, 0) == "probing")
    for _ in range(QUICK.probes):
        np.testing.assert_array_equal(chain.run(submit), EXPECTED)
    assert (chain.serving, chain.states[0].lost) == ("gpu", False)
    chain.close()
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)


def test_a_device_that_turned_slow_is_replaced(
    device: _core.Device, fake: FakeDriver, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_outcomes, "_SLOW", 0.0)  # whatever it takes is too long
    policy = BreakerPolicy(min_outcomes=4, cool_down_s=60.0)
    chain = gpu_chain(device, engines[1], policy)
    for _ in range(4):
        np.testing.assert_array_equal(chain.run(submit), EXPECTED)
    assert chain.wait_until_serving(30)
    assert chain.serving == "cpu"
    assert chain.states[0].reason == "4 of 4 were too slow"
    chain.close()


def test_a_device_that_hangs_is_replaced_and_no_caller_waits(
    device: _core.Device, fake: FakeDriver, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_outcomes, "_STALL_S", 0.05)
    chain = gpu_chain(device, engines[1], BreakerPolicy(failures=2))
    fake.hold()
    limit = time.monotonic() + 30
    while chain.serving != "cpu":
        assert time.monotonic() < limit
        try:
            chain.run(submit, timeout=0.04)
        except TimeoutError:
            continue
        except EngineUnavailableError:
            chain.wait_until_serving(30)
    assert "no result for" in chain.states[0].reason
    np.testing.assert_array_equal(chain.run(submit, timeout=30), EXPECTED)
    fake.hold(False)
    chain.close()
