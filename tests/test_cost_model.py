from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.cost_model import CostModel

sizes = st.floats(1.0, 1e6)
times = st.floats(1e-6, 10.0)


def test_nothing_is_known_before_the_first_step():
    costs = CostModel()
    assert costs.predict("score", 100) is None
    assert costs.largest_within("score", 100, 16, 1.0) == 1  # one, to learn from


@given(sizes, times, st.integers(5, 50))
def test_a_steady_cost_is_predicted_from_above_and_closely(size, seconds, n):
    costs = CostModel()
    for _ in range(n):
        costs.observe("s", size, seconds)
    predicted = costs.predict("s", size)
    assert seconds <= predicted <= 1.4 * seconds


@given(st.lists(st.tuples(sizes, times), min_size=1, max_size=40), sizes)
def test_predictions_are_finite_and_not_negative(seen, size):
    costs = CostModel()
    for s, t in seen:
        costs.observe("s", s, t)
    predicted = costs.predict("s", size)
    assert 0 <= predicted < math.inf


@given(sizes, times, st.floats(1.0, 100.0))
def test_a_larger_step_costs_at_least_in_proportion(size, seconds, factor):
    costs = CostModel()
    costs.observe("s", size, seconds)
    assert costs.predict("s", size * factor) >= costs.predict("s", size) * (1 - 1e-9)
    assert costs.predict("s", size * factor) >= seconds * factor * (1 - 1e-6)


def test_it_rises_faster_than_it_falls():
    up, down = CostModel(), CostModel()
    for _ in range(20):
        up.observe("s", 10, 0.01)
        down.observe("s", 10, 0.1)
    for _ in range(5):
        up.observe("s", 10, 0.1)
        down.observe("s", 10, 0.01)
    assert up.predict("s", 10) > 0.09
    assert down.predict("s", 10) > 0.05


@given(st.floats(1.0, 500.0), st.floats(1e-4, 0.1), st.integers(0, 64), st.floats(0.0, 1.0))
def test_largest_within_fits_and_one_more_would_not(size, seconds, limit, allowance):
    costs = CostModel()
    costs.observe("s", size, seconds)
    n = costs.largest_within("s", size, limit, allowance)
    assert 0 <= n <= limit
    if n:
        assert costs.predict("s", n * size) <= allowance
    if n < limit and allowance > 0:
        assert costs.predict("s", (n + 1) * size) > allowance


def test_a_stall_does_not_shut_a_stage_out_for_good():
    costs = CostModel()
    costs.observe("s", 10, 5.0)  # a stall: 5 s for what takes 5 ms
    refusals = 0
    while costs.predict("s", 10) > 0.05:
        costs.relax("s", 10)
        refusals += 1
        assert refusals < 100
    assert refusals > 1


@pytest.mark.parametrize(
    ("size", "seconds"), [(0, 1), (-1, 1), (math.nan, 1), (1, math.nan), (1, -1), (1, math.inf)]
)
def test_nonsense_is_not_learnt(size, seconds):
    costs = CostModel()
    costs.observe("s", size, seconds)
    assert costs.predict("s", 1) is None
