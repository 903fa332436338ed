from __future__ import annotations

import threading
import time

import pytest

from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline
from searchpipe.gate import ComputeGate
from searchpipe.query import Query
from searchpipe.stages.base import Work


def work() -> Work:
    return Work(Query("q", 1), Deadline(1000), CostModel())


def test_a_free_gate_lets_pass_even_without_time():
    with ComputeGate().enter(work(), priority=1, timeout_s=-1) as passed:
        assert passed


def test_a_full_gate_is_left_in_time():
    gate = ComputeGate()
    with (
        gate.enter(work(), priority=1, timeout_s=1) as first,
        gate.enter(work(), priority=1, timeout_s=0.01) as second,
        gate.enter(work(), priority=1, timeout_s=-1) as third,
    ):
        assert (first, second, third) == (True, False, False)
    with gate.enter(work(), priority=1, timeout_s=-1) as again:
        assert again


def test_the_more_urgent_pass_first():
    gate = ComputeGate()
    passed: list[str] = []
    threads: list[threading.Thread] = []

    def pass_through(name: str, priority: int, timeout_s: float) -> None:
        with gate.enter(work(), priority=priority, timeout_s=timeout_s) as ok:
            assert ok
            passed.append(name)

    with gate.enter(work(), priority=0, timeout_s=1):
        for place, args in enumerate([("late", 1, 60.0), ("soon", 1, 30.0), ("encode", 0, 90.0)]):
            threads.append(threading.Thread(target=pass_through, args=args))
            threads[-1].start()
            while len(gate._waiting) <= place:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert passed == ["encode", "soon", "late"]


def test_never_more_than_its_width_inside():
    gate = ComputeGate(2)
    inside, most, lock = 0, 0, threading.Lock()

    def go() -> None:
        nonlocal inside, most
        for _ in range(50):
            with gate.enter(work(), priority=1, timeout_s=60) as ok:
                assert ok
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most <= 2
    assert not gate._waiting


def test_a_width_of_nothing_is_refused():
    with pytest.raises(ValueError, match="width 0"):
        ComputeGate(0)
