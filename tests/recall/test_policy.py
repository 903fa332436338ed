"""The coalescing policy: fair, bounded, never later than a deadline, by an injected clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import ConfigError
from searchpipe.recall.policy import CoalescePolicy


@dataclass(frozen=True, eq=False)
class One:
    arrival: float
    deadline: float = math.inf
    group: int = 0
    departed: bool = False


times = st.floats(0, 10, allow_nan=False)
waiting = st.lists(
    st.builds(One, times, st.one_of(times, st.just(math.inf)), st.integers(0, 2), st.booleans()), max_size=20
).map(lambda some: sorted(some, key=lambda one: one.arrival))
policies = st.builds(
    CoalescePolicy, st.integers(1, 8), st.one_of(st.just(0.0), st.floats(0, 0.9)), st.integers(1, 100)
)


@given(policy=policies, some=waiting, now=times, cost=st.floats(0, 1))
def test_every_lookup_is_dropped_taken_or_left_and_only_for_a_reason(policy, some, now, cost):
    now += max((one.arrival for one in some), default=0.0)
    cut = policy.cut(some, now, cost)
    for one in some:
        gone = one.departed or one.deadline <= now
        assert (one in cut.dropped) == gone
    live = [one for one in some if one not in cut.dropped]
    assert len(cut.batch) <= policy.max_batch
    assert len({one.group for one in cut.batch}) <= 1
    if cut.batch:
        assert cut.wait_s == 0
        assert cut.batch[0] is live[0]
        mates = [one for one in live if one.group == live[0].group]
        assert cut.batch == mates[: policy.max_batch]
    elif live:
        assert 0 < cut.wait_s <= policy.max_delay_s
    else:
        assert math.isinf(cut.wait_s)


@given(policy=policies, some=waiting, now=times, cost=st.floats(0, 1))
def test_nobody_waits_for_company_past_its_delay_or_anyones_deadline(policy, some, now, cost):
    cut = policy.cut(some, now, cost)
    live = [one for one in some if one not in cut.dropped]
    if cut.batch or not live:
        return
    mates = [one for one in live if one.group == live[0].group][: policy.max_batch]
    again = now + cut.wait_s
    assert again <= live[0].arrival + policy.max_delay_s + 1e-9
    assert again <= min(one.deadline for one in mates) - cost + 1e-9


@given(policy=policies, some=waiting)
def test_all_are_served_in_turn(policy, some):
    now, left, served = 10.0, list(some), []
    for _ in range(100):
        cut = policy.cut(left, now)
        gone = [*cut.dropped, *cut.batch]
        served += cut.batch
        left = [one for one in left if one not in gone]
        if not left:
            break
        if not cut.batch:
            now += cut.wait_s + 1e-9
    assert not left
    for group in range(3):
        order = [one for one in served if one.group == group]
        assert order == [one for one in some if one in order]


def test_without_a_delay_a_lone_lookup_goes_at_once():
    one = One(5.0)
    assert CoalescePolicy().cut([one], 5.0).batch == [one]


def test_a_full_batch_does_not_wait():
    policy = CoalescePolicy(max_batch=2, max_delay_s=0.5)
    first, second = One(1.0), One(1.0)
    assert policy.cut([first], 1.0).wait_s == 0.5
    assert policy.cut([first, second], 1.0).batch == [first, second]


def test_the_queue_is_bounded():
    policy = CoalescePolicy(max_waiting=3)
    assert policy.admits(2)
    assert not policy.admits(3)


@pytest.mark.parametrize("numbers", [(0, 0.0, 1), (1, 0.0, 0), (1, -0.1, 1), (1, 1.0, 1), (1, math.nan, 1)])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ConfigError):
        CoalescePolicy(*numbers)
