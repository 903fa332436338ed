"""The recall source keeps to the query's time and says what it could not do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline, QueryCancelled
from searchpipe.errors import RecallTimeoutError
from searchpipe.query import Query
from searchpipe.recall.source import SharedDense
from searchpipe.stages.base import Work
from searchpipe.stages.recall import Recall

DOCS, SCORES = np.array([3, 1], np.int32), np.array([0.9, 0.8], np.float32)


class Index:
    def __init__(self, reason="", error=None):
        self.reason, self.error = reason, error
        self.seen = {}

    def search_saying(self, vector, k, **options):
        self.seen = {"vector": vector, "k": k, **options}
        if self.error is not None:
            raise self.error
        return DOCS, SCORES, self.reason


def work_of(budget_ms=50.0):
    work = Work(Query("shoes", 10, {}, {}), Deadline(budget_ms), CostModel())
    work.vector = np.ones(4, np.float32)
    work.stage = "recall"
    return work


def test_it_waits_no_longer_than_the_query_may():
    index = Index()
    work = work_of(50.0)
    work.reserve_s = 0.01
    assert SharedDense(index).search(work, 7, None)[0] is DOCS
    assert 0.0 < index.seen["timeout_s"] <= 0.04
    assert index.seen["k"] == 7
    assert not work.degradations
    work.deadline.cancel()
    assert index.seen["departed"]()


def test_without_a_limit_it_waits_for_ever():
    index = Index()
    SharedDense(index).search(work_of(math.inf), 7, None)
    assert math.isinf(index.seen["timeout_s"])


def test_the_reason_of_a_fallback_is_in_the_degradations():
    work = work_of()
    SharedDense(Index(reason="CUDA error 700")).search(work, 7, None)
    (said,) = work.degradations
    assert (said.reason, said.amount) == ("unavailable", 0.0)
    assert "CUDA error 700" in said.given_up


def test_no_place_in_time_leaves_dense_recall_out():
    work = work_of()
    docs, scores = SharedDense(Index(error=RecallTimeoutError("late"))).search(work, 7, None)
    assert len(docs) == len(scores) == 0
    assert work.degradations[0].reason == "busy"


def test_a_caller_who_has_left_ends_the_query():
    work = work_of()
    work.deadline.cancel()
    with pytest.raises(QueryCancelled):
        SharedDense(Index(error=RecallTimeoutError("left"))).search(work, 7, None)


def test_it_is_a_source_of_the_recall_stage():
    work = work_of()
    source = SharedDense(Index())
    assert source.ready(work)
    Recall([source], lambda filters: None, depth=20).run(work)
    assert work.candidates.docs.tolist() == [3, 1]
    work.vector = None
    assert not source.ready(work)
