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
    assert seconds <= predicted <= 1.5 * seconds


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
    for _ in range(30):
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


def test_a_slow_spell_does_not_shut_a_stage_out_for_good():
    now = [0.0]
    costs = CostModel(clock=lambda: now[0])
    costs.observe("s", 10, 5.0)  # 5 s for what takes 5 ms
    before = costs.predict("s", 10)
    for _ in range(100):
        costs.relax("s", 10)
    assert costs.predict("s", 10) == pytest.approx(0.9 * before)  # once a second at most
    while costs.predict("s", 10) > 0.05:
        now[0] += 1.0
        costs.relax("s", 10)
        assert now[0] < 100


def test_one_stall_is_no_trend():
    costs = CostModel()
    for _ in range(30):
        costs.observe("s", 10, 0.01)
    costs.observe("s", 10, 5.0)
    assert costs.predict("s", 10) < 0.06


@pytest.mark.parametrize(
    ("size", "seconds"), [(0, 1), (-1, 1), (math.nan, 1), (1, math.nan), (1, -1), (1, math.inf)]
)
def test_nonsense_is_not_learnt(size, seconds):
    costs = CostModel()
    costs.observe("s", size, seconds)
    assert costs.predict("s", 1) is None


def test_a_cold_start_is_forgotten_quickly():
    costs = CostModel()
    costs.observe("s", 10, 0.1)
    costs.observe("s", 10, 0.001)
    assert costs.predict("s", 10) < 0.002


class Reference:
    """The model by its definition, one bucket after the other."""

    def __init__(self, rise, fall, margin):
        self.rise, self.fall, self.margin = rise, fall, margin
        self.buckets = {}

    @staticmethod
    def key(size):
        return round(2 * math.log2(max(size, 1e-9)))

    def observe(self, size, seconds):
        key = self.key(size)
        if key not in self.buckets:
            self.buckets[key] = [size, seconds, 0.25 * seconds, 1]
            return
        typical, mean, deviation, seen = self.buckets[key]
        settled = seen >= 8
        if not settled and seconds < mean / 2:
            self.buckets[key] = [size, seconds, 0.25 * seconds, seen + 1]
            return
        error = (min(seconds, 4 * mean) if settled else seconds) - mean
        weight = self.rise if error > 0 else self.fall
        typical += weight * (size - typical)
        deviation += weight * (abs(error) - deviation)
        self.buckets[key] = [typical, mean + weight * error, deviation, seen + 1]

    def predict(self, size):
        if not self.buckets:
            return None
        key = self.key(size)
        typical, mean, deviation, _ = self.buckets[min(self.buckets, key=lambda k: (abs(k - key), -k))]
        return (mean + self.margin * deviation) * max(1.0, size / typical)


@given(
    st.lists(st.tuples(sizes, times), max_size=60),
    sizes,
    st.floats(0.05, 1.0),
    st.floats(0.05, 1.0),
    st.floats(0.0, 4.0),
)
def test_it_is_what_its_definition_says(seen, size, rise, fall, margin):
    costs, reference = CostModel(rise=rise, fall=fall, margin=margin), Reference(rise, fall, margin)
    for s, t in seen:
        costs.observe("s", s, t)
        reference.observe(s, t)
    assert costs.predict("s", size) == reference.predict(size)
    known = {typical: mean for _, (typical, mean, _, _) in sorted(reference.buckets.items())}
    assert costs.snapshot() == ({"s": known} if known else {})


@pytest.mark.parametrize("size", [math.nan, math.inf])
def test_a_size_that_is_no_number_is_refused(size):
    costs = CostModel()
    assert costs.predict("s", size) is None
    costs.observe("s", 10, 0.1)
    with pytest.raises(ValueError, match="it must be finite"):
        costs.predict("s", size)


def test_stages_do_not_mix_and_any_name_will_do():
    costs = CostModel()
    costs.observe("näme \N{PILE OF POO}", 10, 0.1)
    costs.observe("", 10, 0.2)
    assert set(costs.snapshot()) == {"", "näme \N{PILE OF POO}"}
    assert costs.predict("other", 10) is None
    assert costs.predict("", 10) > 0.19


stages = st.lists(st.tuples(st.sampled_from("abcd"), sizes, times), max_size=30)


@given(stages)
def test_many_at_once_teach_what_one_by_one_would(rows):
    one, many = CostModel(), CostModel()
    for row in rows:
        one.observe(*row)
    many.observe_many(rows)
    assert many.snapshot() == one.snapshot()


def test_rows_that_are_not_possible_are_passed_over():
    costs = CostModel()
    impossible = [("s", 10**400, 1.0), (b"s", 1, 1.0), ("s", "1", 1.0), ("\ud800", 1, 1.0), ("s", 1, None)]
    costs.observe_many([*impossible, ("s", -1, 1.0), ("s", 1, math.nan), ("s", 1, 0.5)])
    assert costs.snapshot() == {"s": {1.0: 0.5}}
    with pytest.raises(TypeError, match="stage, size and seconds"):
        costs.observe_many([("s", 1)])


@given(stages, st.lists(st.none() | st.floats(0.0, 1.0), min_size=5, max_size=5))
def test_reserves_are_what_later_stages_cost_within_their_limits(rows, limits):
    costs = CostModel()
    costs.observe_many([(kind, 1, seconds) for kind, _, seconds in rows])
    kinds, expected, total = ("a", "b", "c", "d", "e"), [0.0] * 5, 0.0
    for place in range(4, 0, -1):
        limit = limits[place]
        if limit is not None:
            predicted = costs.predict(kinds[place], 1)
            total += limit if predicted is None or predicted > limit else predicted
        expected[place - 1] = total
    assert costs.reserves(kinds, tuple(limits)) == expected


def test_reserves_need_a_limit_a_stage():
    with pytest.raises(ValueError, match="2 stages and 1 limits"):
        CostModel().reserves(("a", "b"), (0.5,))
    assert CostModel().reserves((), ()) == []
