"""What the stages rehearse before the scores are there changes no page, and cannot lose one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.candidates import Candidates
from searchpipe.deadline import Deadline
from searchpipe.stages.build_page import BuildPage
from searchpipe.stages.diversify import Diversify
from searchpipe.stages.rehearsal import rehearse
from searchpipe.stages.score import Score
from tests.stages.test_prepare import (
    Busy,
    Catalog,
    Indexed,
    Own,
    Unhurried,
    halved,
    pages,
    reversed_in_place,
    said,
)


class Warned(Unhurried):
    """Says when its scores are near."""

    def score(self, query_ids, store, docs, *, deadline=None, priority=0, meanwhile=None, before_end=None):
        meanwhile()
        before_end()
        return super().score(query_ids, store, docs)


class Watched(Own):
    """A stage whose rehearsals are counted, and which does what it is told in them."""

    prepares = True

    def __init__(self, change):
        super().__init__(lambda work: None)
        self.tried, self.rehearsed = change, []

    def prepare(self, work):
        pass

    def rehearse(self, work):
        self.rehearsed.append(work.stage)
        self.tried(work)


def behind_score(stage):
    return lambda row: [*row[:2], stage, *row[2:]]


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 200),
    k=st.integers(1, 60),
    depth=st.integers(1, 80),
    bad=st.sampled_from([0.0, 0.3, 1.0]),
    catalog=st.sampled_from([Catalog, Indexed]),
)
def test_a_rehearsed_page_is_the_same(seed, count, k, depth, bad, catalog):
    settings = {"seed": seed, "count": count, "k": k, "depth": depth}
    plain = pages(Unhurried(seed, bad=bad), catalog=catalog(), **settings)
    rehearsed = pages(Warned(seed, bad=bad), catalog=catalog(), **settings)
    assert said(rehearsed) == said(plain)


@pytest.mark.parametrize("own", [reversed_in_place, halved])
def test_candidates_may_change_after_the_rehearsal(own):
    assert said(pages(Warned(), own=own)) == said(pages(Unhurried(), own=own))


def test_the_stages_behind_do_what_they_will_do_on_the_order_so_far():
    class Shown(Indexed):
        def __init__(self):
            super().__init__()
            self.shown = []

        def id_of(self, docs):
            self.shown.append(docs.tolist())
            return super().id_of(docs)

    catalog = Shown()
    page = pages(Warned(), catalog=catalog)
    before, after = catalog.shown
    assert [f"P{doc}" for doc in after] == [hit.id for hit in page.hits]
    # As if no pair had been scored.
    unscored = pages(Warned(error=RuntimeError("CUDA error 700")), catalog=Shown())
    assert [f"P{doc}" for doc in before] == [hit.id for hit in unscored.hits]


@pytest.mark.parametrize("stage", [Score, Diversify, BuildPage])
def test_a_rehearsal_that_fails_costs_nothing(stage, monkeypatch):
    tried = []

    def fail(self, work):
        tried.append(work.stage)
        raise RuntimeError("no memory")

    whole = pages(Unhurried())
    monkeypatch.setattr(stage, "rehearse", fail)
    page = pages(Warned(), catalog=Indexed())
    assert tried == [stage.name]
    assert not page.degraded
    assert said(page) == said(whole)


def scribble(work):
    work.degrade("busy", "everything")
    work.orders["score"] = work.candidates.docs[::-1]
    work.moved[int(work.candidates.docs[0])] = "moved"
    work.extras["slot"] = 1
    work.units, work.decision, work.hits = 7, "nonsense", []
    work.candidates.scores["fused"] = np.zeros(len(work.candidates), np.float32)
    work.candidates.carry("column", np.zeros(len(work.candidates), np.float32))
    work.candidates.docs = work.candidates.docs[::-1].copy()
    with work.step("nonsense", 10):
        pass


def test_nothing_of_it_is_kept():
    plain = pages(Busy(), stages=behind_score(Watched(scribble)))
    stage = Watched(scribble)
    page = pages(Warned(), stages=behind_score(stage))
    assert stage.rehearsed == ["own"]
    assert said(page) == said(plain)
    assert page.extras == plain.extras == {}


def test_the_cost_model_hears_nothing_of_it(make_work):
    work = make_work(20, budget_ms=60_000)
    work.gather_costs(True)
    candidates, beside = work.candidates, dict(work.candidates.beside())
    rehearse(work, [Watched(scribble)])
    assert work.candidates is candidates
    assert dict(candidates.beside()) == beside
    assert candidates.docs.tolist() == list(range(20))
    assert (work.degradations, work.longest_step_s, work.units) == ([], 0.0, 0)
    assert work.costs.predict("nonsense", 10) is None


def test_only_while_there_is_time_and_a_caller(make_work):
    stage = Watched(lambda work: None)
    now = [0.0]
    work = make_work(20, budget_ms=10, clock=lambda: now[0])
    rehearse(work, [stage])
    now[0] = 0.0095
    rehearse(work, [stage])
    assert len(stage.rehearsed) == 1
    now[0], work.reserve_s = 0.0, 0.0095
    rehearse(work, [stage])
    left = make_work(20)
    assert isinstance(left.deadline, Deadline)
    left.deadline.cancel()
    rehearse(left, [stage])
    rehearse(make_work(0), [stage])  # nothing to read
    assert len(stage.rehearsed) == 1


def test_a_stage_that_is_switched_off_or_only_prepares_is_left_alone():
    stage = Watched(lambda work: None)
    page = pages(Warned(), stages=behind_score(stage), without=("own",))
    assert stage.rehearsed == []
    assert not page.degraded

    class Prepares(Own):
        prepares = True

        def prepare(self, work):
            pass

    assert not pages(Warned(), stages=behind_score(Prepares(lambda work: None))).degraded


def test_a_scorer_of_ones_own_is_told_only_if_it_asks():
    class Forwards:
        """Hands on what it gets to one that knows of no end."""

        lengths, predict = Unhurried.lengths, Unhurried.predict

        def score(self, query_ids, store, docs, **named):
            assert "before_end" not in named
            return Busy().score(query_ids, store, docs, **named)

    assert said(pages(Forwards())) == said(pages(Busy())) == said(pages(Warned()))


def test_an_empty_list_is_rehearsed_too(make_work):
    work = make_work(0)
    work.candidates = Candidates.empty()
    score = Score(Warned(), None, None, depth=60)
    rehearse(work, [score, BuildPage(Catalog())])
    assert work.hits is None
