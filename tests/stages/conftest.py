from __future__ import annotations

import math

import numpy as np
import pytest

from searchpipe.candidates import Candidates
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline
from searchpipe.query import Query
from searchpipe.stages.base import Work


@pytest.fixture
def make_work():
    """A query with ``n`` candidates, best first, and the budget wanted."""

    def make(n=0, *, k=10, budget_ms=math.inf, filters=None, clock=None, without=()) -> Work:
        deadline = Deadline(budget_ms, clock) if clock else Deadline(budget_ms)
        query = Query("red shoes", k, filters or {}, without=frozenset(without))
        work = Work(query, deadline, CostModel())
        work.stage = "test"
        work.tokens = work.pair_tokens = np.array([5, 6], np.int32)
        if n:
            scores = {"fused": np.linspace(1, 0.5, n, dtype=np.float32)}
            work.candidates = Candidates.of(np.arange(n, dtype=np.int32), scores)
        return work

    return make
