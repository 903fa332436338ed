"""What a query tells the cost model, and when."""

from __future__ import annotations

import math

import pytest

from searchpipe.config import Config
from searchpipe.cost_model import CostModel
from searchpipe.deadline import QueryCancelled
from searchpipe.pipeline import Pipeline
from searchpipe.runner import StageRunner


def test_outside_of_a_pipeline_a_step_is_told_at_once(make_work):
    work = make_work()
    costs = work.costs
    with work.step("score", 4):
        pass
    assert costs.predict("score", 4) is not None


def test_what_was_gathered_is_known_to_who_asks_through_the_query(make_work):
    work = make_work()
    costs = work.costs
    work.gather_costs(True)
    with work.step("score", 4):
        pass
    assert costs.predict("score", 4) is None
    assert work.costs.predict("score", 4) is not None
    work.observe("page", 1, 0.5)
    assert costs.predict("page", 1) is None
    work.gather_costs(False)
    assert costs.snapshot()["page"] == {1.0: 0.5}
    work.observe("page", 1, 0.1)  # at once again
    assert costs.snapshot()["page"] == {1.0: 0.1}


def test_preparing_in_the_gap_tells_the_costs(make_work):
    work = make_work()
    costs = work.costs
    work.gather_costs(True)
    work.observe("encode", 3, 0.01)
    work.prepare_later()
    assert costs.predict("encode", 3) is not None


def test_a_size_that_is_no_number_fails_in_its_own_step(make_work):
    work = make_work()
    work.gather_costs(True)
    with pytest.raises(TypeError), work.step("score", "many"):
        pass


@pytest.mark.parametrize("unlimited", [True, False])
def test_the_pipeline_learns_its_stages_and_their_steps(unlimited):
    with Pipeline([Own("page", hits=True)], None, Config()) as pipeline:
        pipeline.search("shoes", budget_ms=math.inf if unlimited else 500.0)
        assert set(pipeline.costs.snapshot()) == {"page", "stage:page"}


def test_a_query_that_is_left_tells_what_it_has_seen(make_work):
    def leave(work):
        with work.step("first", 1):
            work.deadline.cancel()

    stages = [Own("first", leave), Own("page", hits=True)]
    work, costs = make_work(), CostModel()
    work._costs = costs
    with pytest.raises(QueryCancelled):
        StageRunner(stages, {}, costs).run(work)
    assert set(costs.snapshot()) == {"first", "stage:first"}


def test_a_lap_is_a_mark_on_the_query_s_own_clock(make_work):
    now = [5.0]
    work = make_work(budget_ms=50.0, clock=lambda: now[0])
    now[0] += 0.25
    assert work.lap() == 0.25
    real = make_work(budget_ms=50.0)
    first, second = real.lap(), real.lap()
    assert 0 <= first <= second
    assert real.marked == pytest.approx(real.deadline.start + second)
    assert real.longest_step_s >= first


def test_after_the_budget_a_lap_belongs_to_the_step_that_spent_it(make_work):
    work = make_work(budget_ms=50.0)
    begun = work.marked = work.deadline.start = work.deadline.start - 1.0
    work.deadline.due -= 1.0
    assert work.lap() >= 1.0
    assert work.marked == begun
    assert work.longest_step_s >= 1.0


class Own:
    essential = True
    reads: tuple[str, ...] = ()

    def __init__(self, name, does=None, *, hits=False):
        self.name = name
        self.writes = ("hits",) if hits else ()
        self._does = does

    def run(self, work):
        if self._does is not None:
            self._does(work)
        elif "hits" in self.writes:
            with work.step(self.name, 1):
                work.hits = []

    def describe(self):
        return ""
