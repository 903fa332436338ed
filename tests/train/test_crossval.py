from __future__ import annotations

import gzip
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.candidates import Candidates
from searchpipe.gate import ComputeGate
from searchpipe.stages.score import Score
from searchpipe.train.crossval import Blend, cross_validated, difference, grades_of, judged_query


class Fixed:
    """A scorer whose logits are given by document."""

    def __init__(self, logits):
        self.logits = np.asarray(logits, np.float32)

    def lengths(self, query_ids, store, docs):
        return np.full(len(docs), 4, np.int32)

    def score(self, query_ids, store, docs):
        return self.logits[docs]


@given(
    logits=st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=20),
    weight=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    depth=st.integers(1, 25),
)
def test_the_blend_is_the_score_stage_s(make_query, logits, weight, depth):
    work = make_query(len(logits))
    Score(Fixed(logits), None, ComputeGate(), depth=depth, weight=weight, temperature=2.0).run(work)
    order = Blend(weight, 2.0).order(len(logits), np.asarray(logits, np.float32), depth)
    by_stage = work.candidates.scores["blend"]
    values = dict(zip(work.candidates.docs.tolist(), by_stage.tolist(), strict=True))
    # The stage computes in float32: only what it tells apart must come in the same order.
    for before, after in itertools.pairwise(order):
        assert values[int(before)] >= values[int(after)] - 1e-6


@pytest.fixture(scope="module")
def make_query():
    from searchpipe.cost_model import CostModel
    from searchpipe.deadline import Deadline
    from searchpipe.query import Query
    from searchpipe.stages.base import Work

    def make(n):
        work = Work(Query("red shoes", 10), Deadline(math.inf), CostModel())
        work.stage = "score"
        work.pair_tokens = np.array([5, 6], np.int32)
        fused = np.linspace(1, 0.5, n, dtype=np.float32)
        work.candidates = Candidates.of(np.arange(n, dtype=np.int32), {"fused": fused})
        return work

    return make


def test_what_was_not_scored_stays_behind_in_its_order():
    logits = np.array([-5.0, np.nan, 5.0, np.nan], np.float32)
    assert Blend(1.0, 1.0).order(5, logits, 4).tolist() == [2, 0, 1, 3, 4]


def test_a_perfect_scorer_is_found_and_weights_are_chosen_on_other_folds():
    rng = np.random.default_rng(0)
    queries, logits = [], []
    for _ in range(20):
        grades = {f"p{n}": int(rng.integers(4)) for n in range(12)}
        query = judged_query(list(grades), grades)
        queries.append(query)
        logits.append((10 * query.gains - 5).astype(np.float32))
    found = cross_validated(queries, logits, 12, seed=7)
    assert found["mean"] == pytest.approx(1.0)
    assert found["alone"] == pytest.approx(1.0)
    assert len(found["chosen"]) == 5
    noise = [rng.normal(size=12).astype(np.float32) for _ in queries]
    assert cross_validated(queries, noise, 12, seed=7)["mean"] < 0.95


def test_ndcg_counts_judged_products_that_are_no_candidates():
    query = judged_query(["a", "unjudged"], {"a": 2, "missing": 3})
    assert query.ndcg(np.array([0, 1])) == pytest.approx(0.1 / (1.0 + 0.1 / np.log2(3)))
    assert judged_query(["a"], {}).ndcg(np.array([0])) == 0.0


def test_labels_are_read_from_plain_and_packed_files(tmp_path):
    text = "q1\tp1\t3\nq1\tp2\t0\nq2\tp1\t1\n"
    (tmp_path / "l.tsv").write_text(text)
    (tmp_path / "l.tsv.gz").write_bytes(gzip.compress(text.encode()))
    expected = {"q1": {"p1": 3, "p2": 0}, "q2": {"p1": 1}}
    assert grades_of(tmp_path / "l.tsv") == grades_of(tmp_path / "l.tsv.gz") == expected


def test_the_difference_has_an_interval_around_it():
    gap = SimpleNamespace(**difference([0.5, 0.7, 0.9], [0.4, 0.6, 0.8], seed=1))
    assert gap.mean == pytest.approx(0.1)
    assert gap.low == pytest.approx(0.1)
    assert gap.high == pytest.approx(0.1)
