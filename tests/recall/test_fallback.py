"""A GPU that fails is replaced by the CPU, rested, and tried again; the reason is on record."""

from __future__ import annotations

import numpy as np
import pytest

from searchpipe.errors import (
    ClosedError,
    ConfigError,
    EngineError,
    OverloadedError,
    QueryError,
    RecallTimeoutError,
)
from searchpipe.recall.fallback import Breaker, FallbackIndex

QUERY = np.ones(4, np.float32)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Primary:
    def __init__(self):
        self.error = None
        self.calls = 0

    def search(self, vector, k, *, mask=None, timeout_s=0.0, departed=None):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return np.array([1], np.int32), np.array([0.5], np.float32)


class Host:
    def search(self, vector, k, *, mask=None):
        assert isinstance(vector, np.ndarray)
        return np.array([2], np.int32), np.array([0.25], np.float32)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def primary():
    return Primary()


@pytest.fixture
def index(primary, clock):
    return FallbackIndex(primary, Host(), max_k=100, breaker=Breaker(2, 30.0, clock=clock))


def test_while_it_works_the_gpu_answers(index):
    docs, _, reason = index.search_saying(QUERY, 5)
    assert (docs.tolist(), reason, index.reason) == ([1], "", "")


def test_a_failure_is_answered_by_the_cpu_with_the_reason(index, primary):
    primary.error = EngineError("CUDA error 700")
    docs, _, reason = index.search_saying(QUERY, 5)
    assert docs.tolist() == [2]
    assert "CUDA error 700" in reason
    assert index.reason == reason
    primary.error = None
    assert index.search(QUERY, 5)[0].tolist() == [1]
    assert index.reason == ""


def test_after_repeated_failures_it_rests_then_one_query_tries(index, primary, clock):
    primary.error = EngineError("lost")
    for _ in range(5):
        assert index.search_saying(QUERY, 5)[2] == "lost"
    assert primary.calls == 2
    clock.now += 30.0
    index.search(QUERY, 5)
    index.search(QUERY, 5)
    assert primary.calls == 3
    clock.now += 30.0
    primary.error = None
    assert index.search_saying(QUERY, 5)[2] == ""
    assert index.search_saying(QUERY, 5)[2] == ""
    assert primary.calls == 5


@pytest.mark.parametrize("error", [OverloadedError("full"), ClosedError("closed")])
def test_a_full_or_closed_queue_is_no_failure_of_the_device(index, primary, error):
    primary.error = error
    for _ in range(5):
        assert index.search(QUERY, 5)[0].tolist() == [2]
    assert primary.calls == 5
    assert index.reason == ""


@pytest.mark.parametrize("error", [RecallTimeoutError("late"), QueryError("bad")])
def test_what_the_cpu_cannot_better_is_raised(index, primary, error):
    primary.error = error
    with pytest.raises(type(error)):
        index.search(QUERY, 5)


def test_more_documents_than_the_gpu_gives_come_from_the_cpu(index, primary):
    docs, _, reason = index.search_saying(QUERY, 101)
    assert docs.tolist() == [2]
    assert "101" in reason
    assert primary.calls == 0


def test_impossible_breakers_are_refused():
    for numbers in ((0, 1.0), (1, 0.0)):
        with pytest.raises(ConfigError):
            Breaker(*numbers)
