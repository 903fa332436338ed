"""Recall that begins before its turn gives what it would have given in its turn, or says what was late."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from searchpipe.errors import EngineError
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import EarlyStage
from searchpipe.stages.recall import Recall


class Source:
    """Documents ``docs`` with falling scores; may wait for an event, or fail."""

    def __init__(self, name, docs, *, early=False, wait=None, error=None):
        self.name, self.early = name, early
        self.docs = np.asarray(docs, np.int32)
        self.wait, self.error = wait, error
        self.threads = []
        self.begun = threading.Event()

    def ready(self, work):
        return self.early or work.vector is not None

    def search(self, work, depth, mask):
        self.threads.append(threading.current_thread().name)
        self.begun.set()
        if self.wait is not None:
            assert self.wait.wait(30)
        if self.error is not None:
            raise self.error
        docs = self.docs if mask is None else self.docs[mask[self.docs]]
        return docs[:depth], np.linspace(2, 1, len(docs[:depth]), dtype=np.float32)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2, "early") as threads:
        yield threads


def searched(work, sources, pool=None, *, mask_of=lambda filters: None, **settings):
    stage = Recall(sources, mask_of, pool=pool, **settings)
    stage.start_early(work)
    work.vector = np.ones(4, np.float32)
    stage.run(work)
    return work


def sources(**lexical):
    return [Source("lexical", [4, 2, 9, 1], early=True, **lexical), Source("dense", [2, 7, 4])]


@pytest.mark.parametrize("fusion", ["rrf", "weighted"])
@pytest.mark.parametrize("filtered", [False, True])
def test_candidates_are_those_of_one_source_after_the_other(make_work, pool, fusion, filtered):
    mask = np.arange(10) % 2 == 0
    options = {"mask_of": lambda filters: mask, "fusion": fusion, "weights": {"dense": 0.7}}
    filters = {"even": True} if filtered else None
    plain = searched(make_work(filters=filters), sources(), **options)
    own = sources()
    early = searched(make_work(filters=filters), own, pool, **options)
    assert own[0].threads[0].startswith("early") or own[0].threads == ["MainThread"]
    assert early.candidates.docs.tolist() == plain.candidates.docs.tolist()
    assert list(early.candidates.scores) == list(plain.candidates.scores)
    for name, column in plain.candidates.scores.items():
        np.testing.assert_array_equal(early.candidates.scores[name], column)
    assert early.decision == plain.decision
    assert {n: d.tolist() for n, d in early.orders.items()} == {
        n: d.tolist() for n, d in plain.orders.items()
    }
    assert not early.degradations
    assert early.costs.predict("lexical", 300) is not None


def test_a_late_source_is_left_out_when_another_answered(make_work, pool):
    event = threading.Event()
    own = sources(wait=event)
    work = make_work(budget_ms=2000)
    stage = Recall(own, lambda filters: None, pool=pool)
    stage.start_early(work)
    assert own[0].begun.wait(30)
    work.vector = np.ones(4, np.float32)
    work.reserve_s = 1.95  # so that 50 ms are left
    stage.run(work)
    event.set()
    assert work.candidates.docs.tolist() == [2, 7, 4]
    assert [(d.reason, d.given_up) for d in work.degradations] == [("deadline", "lexical recall")]


def test_without_another_it_is_waited_for(make_work, pool):
    event = threading.Event()
    work = make_work(budget_ms=5)
    lexical = Source("lexical", [3, 1], early=True, wait=event)
    stage = Recall([lexical], lambda filters: None, pool=pool)
    stage.start_early(work)
    assert lexical.begun.wait(30)
    threading.Timer(0.05, event.set).start()
    stage.run(work)
    assert work.candidates.docs.tolist() == [3, 1]
    assert work.longest_step_s >= 0.02


def test_a_query_does_not_wait_for_the_searches_of_others(make_work):
    event = threading.Event()
    with ThreadPoolExecutor(1, "early") as busy:
        busy.submit(event.wait, 30)
        own = sources()
        work = searched(make_work(), own, busy)
        event.set()
    assert own[0].threads == ["MainThread"]
    assert set(work.candidates.docs.tolist()) == {1, 2, 4, 7, 9}


def test_a_failing_early_source_is_left_out_and_said(make_work, pool):
    work = searched(make_work(), sources(error=OSError("disk")), pool)
    assert work.candidates.docs.tolist() == [2, 7, 4]
    assert [d.reason for d in work.degradations] == ["stage_failed"]
    assert "OSError: disk" in work.degradations[0].given_up
    late = TimeoutError("its own")
    work = searched(make_work(budget_ms=10_000), sources(error=late), pool)
    assert "its own" in work.degradations[0].given_up
    lone = Recall([Source("lexical", [], early=True, error=OSError("disk"))], lambda filters: None, pool=pool)
    work = make_work()
    lone.start_early(work)
    with pytest.raises(EngineError):
        lone.run(work)


def test_a_spent_budget_still_has_what_an_answer_needs(make_work, pool):
    now = [0.0]
    work = make_work(budget_ms=10, clock=lambda: now[0])
    now[0] = 1.0
    searched(work, sources(), pool)
    assert work.candidates.docs.tolist() == [4, 2, 9, 1]
    assert [(d.reason, d.given_up) for d in work.degradations] == [("deadline", "dense recall")]


def test_a_closed_pool_means_one_after_the_other(make_work, pool):
    pool.shutdown()
    stage = Recall(sources(), lambda filters: None, pool=pool)
    assert isinstance(stage, EarlyStage)

    class Page:
        name, reads, writes, essential = "page", ("candidates",), ("hits",), True

        def run(self, work):
            work.hits = []
            work.extras["docs"] = work.candidates.docs.tolist()

        def describe(self):
            return "page"

    with Pipeline([stage, Page()]) as pipeline:
        page = pipeline.search("shoes", budget_ms=math.inf)
    assert page.extras["docs"] == [4, 2, 9, 1]
    assert not page.degradations


def test_nothing_is_begun_when_the_filters_leave_nothing(make_work, pool):
    own = sources()
    searched(make_work(filters={"none": True}), own, pool, mask_of=lambda filters: np.zeros(10, bool))
    assert own[0].threads == []
