"""Callers with far more time than full answers take get them, however many ask; on a simulated clock."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.admission import Admission
from searchpipe.allotment import Allotment, Service
from searchpipe.errors import OverloadedError
from tests.test_admission import COSTS, Now, taught

FULL_S = COSTS[Service.FULL]
PLACES = 64


class ClosedLoop:
    """Callers who ask again as soon as they are answered, a queue by deadline, threads.

    Args:
        threads: that answer.
        budgets: seconds, one for each caller.
        noise: a query costs from 1 - noise to 1 + noise times what its service does.
        seed: of that.
        answers: when to stop.
        spare: share of the threads' time that others take, unseen by the policy, while more than one runs.
    """

    def __init__(
        self, threads: int, budgets: list[float], noise: float, seed: int, answers: int, spare: float = 0.0
    ) -> None:
        self.clock = Now()
        self.policy: Admission = taught(self.clock, threads)
        self.policy._places = PLACES
        self.got: dict[float, Counter[Service]] = {budget: Counter() for budget in budgets}
        self.shed: Counter[float] = Counter()
        self.late: Counter[float] = Counter()
        self.pressed = 0
        dice = random.Random(seed)
        asking = [(self.clock() + dice.random() * FULL_S, n, budget) for n, budget in enumerate(budgets)]
        heapq.heapify(asking)
        waiting: list[tuple[float, int, float, float]] = []  # due, who, arrived, budget
        running: list[tuple[float, int, float, float, Allotment]] = []  # end, who, due, budget
        while answers:
            if asking and (not running or asking[0][0] <= running[0][0]):
                self.clock.s, who, budget = heapq.heappop(asking)
                due = self.clock() + budget
                try:
                    self.policy.arriving(due, sum(one[0] < due for one in waiting))
                    heapq.heappush(waiting, (due, who, self.clock(), budget))
                except OverloadedError:
                    self.shed[budget] += 1
                    heapq.heappush(asking, (self.clock() + FULL_S, who, budget))
            else:
                self.clock.s, who, due, budget, allotment = heapq.heappop(running)
                self.policy.ended(allotment)
                self.late[budget] += self.clock() > due
                answers -= 1
                heapq.heappush(asking, (self.clock() + 1e-4, who, budget))
            while waiting and len(running) < threads:
                due, who, arrived, budget = heapq.heappop(waiting)
                next_due = waiting[0][0] if waiting else float("inf")
                try:
                    allotment = self.policy.starting(due, len(waiting), arrived=arrived, next_due=next_due)
                except OverloadedError:
                    self.shed[budget] += 1
                    heapq.heappush(asking, (self.clock() + FULL_S, who, budget))
                    continue
                self.got[budget][allotment.service] += 1
                seconds = COSTS[allotment.service] * dice.uniform(1 - noise, 1 + noise)
                seconds *= 1 + spare * len(running)
                heapq.heappush(running, (self.clock() + seconds, who, due, budget, allotment))
            if waiting and self.policy.presses(waiting[0][2], waiting[0][0], len(waiting)):
                self.pressed += 1


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 44), st.floats(1.0, 20.0), st.floats(0.0, 0.3), st.integers(0, 10_000)
)
def test_who_has_far_more_time_than_a_full_answer_takes_gets_it(
    threads: int, callers: int, more: float, noise: float, seed: int
) -> None:
    longest_wait = (1 + noise) * FULL_S * (1 + callers / threads)
    loop = ClosedLoop(threads, [4.0 * more * longest_wait] * callers, noise, seed, answers=10 * callers)
    assert all(set(services) == {Service.FULL} for services in loop.got.values())
    assert (loop.shed.total(), loop.late.total(), loop.pressed) == (0, 0, 0)


@settings(max_examples=10, deadline=None)
@given(st.integers(8, 44), st.integers(0, 10_000))
def test_so_does_who_has_seconds_where_threads_slow_each_other_down(callers: int, seed: int) -> None:
    """Costs that grow with the load are no reason either: 5 s are far more than 44 answers of 45 ms take."""
    loop = ClosedLoop(4, [5.0] * callers, 0.2, seed, answers=10 * callers, spare=0.1)
    assert set(loop.got[5.0]) == {Service.FULL}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10_000))
def test_patience_is_no_licence_to_make_others_late(threads: int, seed: int) -> None:
    """Many callers in a hurry beside a few with time: those in a hurry get lighter answers, in time."""
    hurried, patient = [0.05] * (4 * threads), [5.0] * 2
    loop = ClosedLoop(threads, hurried + patient, 0.1, seed, answers=400)
    answered = sum(loop.got[0.05].values())
    assert loop.late[0.05] <= 0.1 * answered
    assert loop.got[0.05][Service.LIGHTEST] > loop.got[0.05][Service.FULL]
    assert answered > 100


def test_a_crowded_room_makes_answers_lighter_before_its_last_place_is_taken() -> None:
    clock = Now()
    policy = taught(clock)
    policy._places = PLACES
    assert policy.patient(1e9, 48)
    assert not policy.patient(1e9, 49)
    for _ in range(200):
        policy.arriving(clock() + 600.0, 49)
    assert policy.starting(clock() + 600.0, 49).service is Service.LIGHTEST


def test_without_a_limit_a_query_gets_everything_even_then() -> None:
    clock = Now()
    policy = taught(clock)
    policy._places = PLACES
    for _ in range(200):
        policy.arriving(math.inf, 60)
    assert policy.starting(math.inf, 60, next_due=clock() + 0.05).service is Service.FULL
