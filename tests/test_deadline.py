from __future__ import annotations

import math

import pytest

from searchpipe.deadline import MAX_BUDGET_MS, Deadline, QueryCancelled
from searchpipe.errors import QueryError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_remaining_follows_the_clock():
    clock = Clock()
    deadline = Deadline(50, clock)
    clock.now += 0.02
    assert deadline.elapsed() == pytest.approx(0.02)
    assert deadline.remaining() == pytest.approx(0.03)
    clock.now += 0.1
    assert deadline.remaining() == pytest.approx(-0.07)


def test_no_limit_never_runs_out():
    clock = Clock()
    deadline = Deadline(math.inf, clock)
    clock.now += 1e9
    assert deadline.unlimited
    assert deadline.remaining() == math.inf


@pytest.mark.parametrize("bad", [0, -1, math.nan, -math.inf, MAX_BUDGET_MS * 2, "50", None, True])
def test_a_bad_budget_is_refused_by_name(bad):
    with pytest.raises(QueryError, match="budget_ms is"):
        Deadline(bad)


def test_cancelling_stops_the_next_step():
    deadline = Deadline(50)
    deadline.check_cancelled()
    deadline.cancel()
    with pytest.raises(QueryCancelled):
        deadline.check_cancelled()
