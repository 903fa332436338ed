"""Breaks a real GPU under a chain of engines, in a process of its own.

    python -m tests.runtime.gpu_faults CASE

A CUDA error that is not forgiven ends the context of the whole process, so no test can share one with it.
"""

from __future__ import annotations

import sys
import threading
import time

import numpy as np

from searchpipe import _core
from searchpipe.errors import EngineError
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.runtime.row_model import expected_texts, kernel_engine, row_scores

POKE = """
.version 7.0
.target sm_50
.address_size 64
.visible .entry poke(.param .u64 address) {
  .reg .u64 %a;
  ld.param.u64 %a, [address];
  st.global.u64 [%a], %a;
  ret;
}
"""
BUCKETS = [(4, 16), (8, 32)]
TEXTS = [np.full(n, 2000 + n, np.int32) for n in (3, 9, 20)]
EXPECTED = expected_texts(TEXTS, 1)[:, 0]
ATTEMPTS = 5  # other processes may take memory of the same GPU meanwhile
CALLERS = 16


def submit(scorer: _core.Scorer) -> _core.Ticket:
    return scorer.submit_texts(TEXTS, cls_id=101, sep_id=102)


def device_link(device: _core.Device, buckets: list[tuple[int, int]]) -> Link:
    def open_it() -> Opened:
        engine = kernel_engine(device, buckets, [])
        return Opened(_core.StagingRing([engine], slots=3), engine.close)

    return Link("gpu", open_it)


def host_link() -> Link:
    def compute(ids: np.ndarray, mask: np.ndarray, types: np.ndarray, output: np.ndarray) -> None:
        output[:] = row_scores(ids, mask, types, output.shape[1])

    return Link("cpu", lambda: Opened(_core.HostExecutor(compute, BUCKETS), lambda: None))


def illegal_address() -> None:
    """A kernel of somebody else in the process writes where it may not, while 16 callers are served."""
    device = _core.Device(0)
    poke = _core.Kernel(device, POKE, "poke")
    stream = _core.Stream(device)
    chain = EngineChain([device_link(device, BUCKETS), host_link()])
    served: dict[str, int] = {}
    refused: list[str] = []
    wrong = 0
    lock = threading.Lock()
    stop = threading.Event()

    def call() -> None:
        nonlocal wrong
        while not stop.is_set():
            by = chain.serving
            try:
                scores = chain.run(submit, timeout=30)
            except EngineError as error:
                with lock:
                    refused.append(str(error))
                time.sleep(0.001)
                continue
            with lock:
                served[by] = served.get(by, 0) + 1
                wrong += not np.array_equal(scores, EXPECTED)

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    time.sleep(0.3)
    assert chain.serving == "gpu"
    poke.launch(stream.handle, 1, 1, [0x10])
    deadline = time.monotonic() + 30
    while served.get("cpu", 0) < 100 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    for caller in callers:
        caller.join(30)
        assert not caller.is_alive(), "a caller hangs"
    states = [(state.name, state.state) for state in chain.states]
    assert states == [("gpu", "failed"), ("cpu", "serving")], states
    assert served["gpu"] > 0, served
    assert served["cpu"] >= 100, served
    assert not wrong, f"{wrong} wrong answers"
    assert refused, "nothing failed"
    assert any("CUDA_ERROR_ILLEGAL_ADDRESS" in text for text in refused), refused[:3]
    print(f"served {served}, refused {len(refused)}: {refused[0]}")
    chain.close()


def out_of_memory() -> None:
    """The first engine does not fit; the next one opens, and what the first had taken is free again."""
    device = _core.Device(0)
    held = _core.DeviceBuffer(device, device.free_bytes() - (512 << 20))
    kept = []
    for _ in range(ATTEMPTS):
        before = device.free_bytes()
        chain = EngineChain([device_link(device, [(65536, 2048)]), host_link()])
        kept.append(before - device.free_bytes())
        reason = chain.states[0].reason
        assert chain.serving == "cpu"
        assert "memory" in reason.lower(), reason
        np.testing.assert_array_equal(chain.run(submit, timeout=30), EXPECTED)
        chain.close()
        if kept[-1] < 32 << 20:
            break
    else:
        raise AssertionError(f"engines that did not open keep memory: {kept} bytes")
    print(reason)
    del held


if __name__ == "__main__":
    {"illegal_address": illegal_address, "out_of_memory": out_of_memory}[sys.argv[1]]()
