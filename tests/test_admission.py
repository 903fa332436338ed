"""The policy alone, on a clock of the tests' own: what it admits, how richly, and what it turns away."""

from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.admission import PATIENCE, Admission
from searchpipe.allotment import Allotment, Service
from searchpipe.errors import OverloadedError

COSTS = {Service.FULL: 0.045, Service.SHORTENED: 0.02, Service.UNSCORED: 0.01, Service.LIGHTEST: 0.002}


class Now:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def taught(clock: Now, threads: int = 2, known: tuple[Service, ...] = tuple(Service)) -> Admission:
    """A policy that knows what each service costs, and has been idle for a while."""
    policy = Admission(threads, clock)
    for service in known:
        for _ in range(20):
            allotment = Allotment(service, math.inf, clock(), COSTS[service])
            clock.s += COSTS[service]
            policy.ended(allotment)
    clock.s += 10.0
    return policy


def occupy(policy: Admission, clock: Now) -> list[Allotment]:
    return [policy.starting(clock() + 0.05, 0) for _ in range(policy._threads)]


def test_nothing_known_means_everything_is_admitted_in_full() -> None:
    clock = Now()
    policy = Admission(1, clock)
    for ahead in range(50):
        policy.arriving(clock() + 0.001, ahead)
    assert policy.starting(clock() + 0.001, 49).service is Service.FULL
    assert policy.shed.total() == 0


def test_an_idle_thread_turns_nobody_away() -> None:
    clock = Now()
    policy = taught(clock)
    end = policy.arriving(clock() + 0.0001, 0)
    assert end > clock() + 0.0001
    assert policy.starting(clock() + 0.0001, 0).service is Service.FULL  # limited by its own deadline
    policy.arriving(clock() + 0.0001, 0)  # the other thread
    assert policy.shed.total() == 0


def test_a_lone_query_gets_everything_and_one_without_a_limit_always_does() -> None:
    clock = Now()
    policy = taught(clock)
    policy.arriving(clock() + 0.05, 0)
    assert policy.starting(clock() + 0.05, 0).service is Service.FULL
    for _ in range(200):
        policy.arriving(math.inf, 5)
    allotment = policy.starting(math.inf, 50)
    assert (allotment.service, allotment.limit_s) == (Service.FULL, math.inf)


def test_what_would_be_late_even_with_the_lightest_service_is_turned_away_at_once() -> None:
    clock = Now()
    policy = taught(clock)
    occupy(policy, clock)
    with pytest.raises(OverloadedError, match="late") as caught:
        policy.arriving(clock() + 0.05, 200)
    # 200 queries of 2 ms on two threads, less the budget.
    assert caught.value.retry_after_s == pytest.approx(0.045 + 0.2 - 0.05, abs=0.06)
    assert policy.shed["arrival"] == 1
    policy.arriving(clock() + 5.0, 200)  # a larger budget has the time


def test_those_like_one_that_was_turned_away_are_so_at_once_for_a_while() -> None:
    clock = Now()
    policy = taught(clock)
    occupy(policy, clock)
    policy.full(clock() + 0.05)  # nothing is known of such ones
    with pytest.raises(OverloadedError) as whole:
        policy.arriving(clock() + 0.05, 200)
    clock.s += 0.001
    with pytest.raises(OverloadedError) as short:
        policy.full(clock() + 0.05)
    assert short.value.retry_after_s is not None
    assert whole.value.retry_after_s is not None
    assert 0 < short.value.retry_after_s <= whole.value.retry_after_s
    assert policy.shed["arrival"] == 2
    policy.full(clock() + 5.0)  # has more time
    policy.full(clock() + 0.05, priority=1)  # goes first
    clock.s += 0.01
    policy.full(clock() + 0.05)  # the prediction is old


def test_predictions_that_are_too_low_are_made_up_for() -> None:
    clock = Now()
    policy = taught(clock)
    occupy(policy, clock)
    before = policy.arriving(clock() + 0.05, 4) - clock()
    for _ in range(200):
        predicted = policy.arriving(clock() + 0.05, 4) - clock()
        policy.errors.compare(predicted, before + 0.008, Service.LIGHTEST)
        policy.errors.compare(predicted, 1.0, Service.FULL)  # which was not what was predicted
    assert policy.arriving(clock() + 0.05, 4) - clock() == pytest.approx(before + 0.008, abs=0.001)
    for _ in range(200):
        policy.errors.compare(before, 0.0)
    assert policy.arriving(clock() + 0.05, 4) - clock() == pytest.approx(before)


def test_one_that_waited_too_long_is_shed_only_for_others() -> None:
    clock = Now()
    policy = taught(clock)
    with pytest.raises(OverloadedError):
        policy.starting(clock() + 0.001, 1)
    # Nobody waits for the thread: its own deadline says what is left out.
    assert policy.starting(clock() + 0.001, 0).service is Service.FULL
    assert policy.shed["waiting"] == 1


def test_a_slow_way_back_to_the_caller_counts() -> None:
    clock = Now()
    policy = taught(clock)
    occupy(policy, clock)
    policy.arriving(clock() + 0.1, 5)
    for _ in range(100):
        policy.errors.returned(0.09)
    with pytest.raises(OverloadedError):
        policy.arriving(clock() + 0.1, 5)
    for _ in range(100):
        policy.errors.returned(0.0)
    policy.arriving(clock() + 0.1, 5)


def test_queries_of_other_threads_are_load() -> None:
    clock = Now()
    alone, beside = taught(clock, 4), taught(clock, 4)
    assert beside.arriving(clock() + 0.05, 8, outside=3) > alone.arriving(clock() + 0.05, 8)


def test_who_is_turned_away_pays_for_nobody_elses_comfort() -> None:
    """While queries are shed, none gets more than the lightest service."""
    clock = Now()
    policy = taught(clock)
    occupy(policy, clock)
    for _ in range(1000):
        clock.s += 0.0002
        with pytest.raises(OverloadedError):
            policy.arriving(clock() + 0.05, 200)
    assert policy.starting(clock() + 0.05, 0).service is Service.LIGHTEST


def test_a_service_that_was_too_dear_is_tried_again() -> None:
    clock = Now()
    policy = taught(clock)
    before = policy.cost(Service.FULL)
    assert before is not None
    *_, last = occupy(policy, clock)
    for _ in range(100):
        clock.s += 0.1
        for _ in range(100):
            with pytest.raises(OverloadedError):
                policy.arriving(clock() + 0.05, 200)
        policy.ended(last, done=False)
        last = policy.starting(clock() + 0.05, 0)
        assert last.service is Service.LIGHTEST
    after = policy.cost(Service.FULL)
    assert after is not None
    assert after < before / 2


class Queue:
    """A pipeline in a simulated world: threads, a queue by deadline, services that cost what they cost."""

    def __init__(self, threads: int, rate: float, seconds: float, budget: float, seed: int) -> None:
        self.clock = Now()
        self.policy = taught(self.clock, threads)
        self.budget = budget
        self.latency: list[float] = []
        self.services: list[Service] = []
        self.longest = 0
        self.shed = 0
        self.arrivals: list[float] = []
        at, dice = self.clock(), random.Random(seed)
        while (at := at + dice.expovariate(rate)) < self.clock() + seconds:
            self.arrivals.append(at)
        self._run(threads)

    def _run(self, threads: int) -> None:
        running: list[tuple[float, int, float, Allotment]] = []
        waiting: list[float] = []
        arrivals, place = [*self.arrivals, math.inf], 0
        while arrivals[place] < math.inf or running:
            if arrivals[place] <= (running[0][0] if running else math.inf):
                self.clock.s = at = arrivals[place]
                place += 1
                if len(running) == threads:
                    running = [self._yielding(one, at) for one in running]
                    heapq.heapify(running)
                try:
                    self.policy.arriving(at + self.budget, len(waiting))
                    waiting.append(at)
                except OverloadedError:
                    self.shed += 1
            else:
                self.clock.s, _, at, allotment = heapq.heappop(running)
                self.policy.ended(allotment)
                self.latency.append(self.clock() - at)
            while waiting and len(running) < threads:
                at = waiting.pop(0)
                try:
                    allotment = self.policy.starting(at + self.budget, len(waiting))
                except OverloadedError:
                    self.shed += 1
                    continue
                self.services.append(allotment.service)
                # The stages' own deadlines cut the richer services short.
                cost = min(COSTS[allotment.service], max(0.002, at + self.budget - self.clock()))
                heapq.heappush(running, (self.clock() + cost, len(self.services), at, allotment))
            self.longest = max(self.longest, len(waiting))

    def _yielding(
        self, one: tuple[float, int, float, Allotment], at: float
    ) -> tuple[float, int, float, Allotment]:
        """Scoring ends between two steps when somebody has waited for a tenth of the budget."""
        end, number, arrived, allotment = one
        if allotment.service <= Service.SHORTENED:
            end = min(end, max(at + PATIENCE * self.budget, allotment.began + COSTS[Service.UNSCORED]))
        return end, number, arrived, allotment

    @property
    def goodput(self) -> int:
        return sum(latency <= self.budget + 1e-9 for latency in self.latency)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.floats(0.5, 8.0), st.integers(0, 10_000))
def test_whatever_comes_goodput_stays_and_none_is_lost(threads: int, load: float, seed: int) -> None:
    capacity = threads / COSTS[Service.LIGHTEST]
    queue = Queue(threads, load * capacity, 0.3, 0.05, seed)
    assert len(queue.latency) + queue.shed == len(queue.arrivals)
    # Who is answered is answered in time, but for the few who came too late and held nobody up.
    assert len(queue.latency) - queue.goodput <= 3 + 0.02 * len(queue.latency)
    assert queue.longest <= 0.05 / COSTS[Service.LIGHTEST] * threads
    # No collapse: what can be done with the lightest service is done, but for the planned margin.
    assert queue.goodput >= 0.8 * min(len(queue.arrivals), 0.3 * capacity) - 10
    assert queue.policy.running == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10_000))
def test_degraded_before_shed(threads: int, seed: int) -> None:
    """Between what the full and what the lightest service can do nobody is turned away, many get less."""
    capacity = threads / COSTS[Service.LIGHTEST]
    queue = Queue(threads, 0.3 * capacity, 0.6, 0.05, seed)
    assert queue.shed <= 2 + 0.02 * len(queue.arrivals)
    assert any(service is not Service.FULL for service in queue.services)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10_000))
def test_light_load_is_served_in_full(threads: int, seed: int) -> None:
    queue = Queue(threads, 0.2 * threads / COSTS[Service.FULL], 5.0, 0.05, seed)
    assert queue.shed <= 1 + 0.01 * len(queue.arrivals)
    assert sum(s is Service.FULL for s in queue.services) >= 0.7 * len(queue.services)
