from __future__ import annotations

import numpy as np
import pytest

from searchpipe.gate import ComputeGate
from searchpipe.stages.score import Score


class Scorer:
    """Logits by a function of the document; moves a clock by what each pair costs."""

    def __init__(self, logit=float, *, clock=None, seconds=0.0, length=lambda doc: 20):
        self.logit, self.clock, self.seconds, self.length = logit, clock, seconds, length
        self.steps = []

    def lengths(self, query_ids, store, docs):
        return np.array([self.length(int(d)) for d in docs], np.int32)

    def score(self, query_ids, store, docs):
        self.steps.append(docs.tolist())
        if self.clock is not None:
            self.clock[0] += self.seconds * len(docs)
        return np.array([self.logit(int(d)) for d in docs], np.float32)


def stage(scorer, **settings):
    return Score(scorer, None, ComputeGate(), **settings)


def test_without_a_limit_everything_to_the_depth_is_scored_longest_first(make_work):
    scorer = Scorer(length=lambda doc: 10 + doc)
    work = make_work(30)
    stage(scorer, depth=20, step_rows=8, weight=1.0).run(work)
    assert [len(s) for s in scorer.steps] == [8, 8, 4]
    assert scorer.steps[0] == list(range(19, 11, -1))
    assert work.candidates.docs.tolist() == [*range(19, -1, -1), *range(20, 30)]
    assert not work.degradations
    assert work.decision == "20 of 20 pairs"


def test_weight_zero_keeps_the_order_and_blends_are_monotone(make_work):
    work = make_work(12)
    stage(Scorer(), depth=12, weight=0.0).run(work)
    assert work.candidates.docs.tolist() == list(range(12))
    work = make_work(12)
    stage(Scorer(), depth=12, weight=0.5).run(work)
    blend = work.candidates.scores["blend"]
    assert np.all(np.diff(blend) <= 0)


def test_a_short_budget_scores_the_best_and_says_what_was_left(make_work, monkeypatch):
    now = [0.0]
    work = make_work(50, budget_ms=100, clock=lambda: now[0])
    scorer = Scorer(clock=now, seconds=0.01)
    # The cost model times real seconds; teach it what the fake clock will show.
    for rows in (1, 2, 4, 8):
        for _ in range(30):
            work.costs.observe("score", rows * 20, rows * 0.01)
    monkeypatch.setattr(work.costs, "observe", lambda *args: None)
    stage(scorer, depth=40, step_rows=8, weight=1.0).run(work)
    done = sum(map(len, scorer.steps))
    assert 5 <= done <= 10
    assert sorted(doc for step in scorer.steps for doc in step) == list(range(done))  # from the best down
    assert now[0] <= 0.1
    assert work.candidates.docs[done:].tolist() == list(range(done, 50))
    [degradation] = work.degradations
    assert degradation.reason == "shortened"
    assert degradation.given_up == f"scored {done} of 40 candidates"
    assert degradation.amount == pytest.approx(1 - done / 40)


def test_no_time_at_all_keeps_the_order(make_work):
    now = [0.0]
    work = make_work(5, budget_ms=10, clock=lambda: now[0])
    now[0] = 0.02
    scorer = Scorer()
    stage(scorer).run(work)
    assert not scorer.steps
    assert work.candidates.docs.tolist() == [0, 1, 2, 3, 4]
    assert [d.reason for d in work.degradations] == ["deadline"]


def test_an_unknown_cost_is_learnt_with_one_pair(make_work):
    scorer = Scorer()
    stage(scorer, step_rows=8).run(make_work(5, budget_ms=10_000))
    assert len(scorer.steps[0]) == 1


def test_a_busy_engine_is_given_up(make_work):
    gate, scorer = ComputeGate(), Scorer()
    work, other = make_work(5, budget_ms=20), make_work()
    with gate.enter(other, priority=0, timeout_s=1):
        Score(scorer, None, gate).run(work)
    assert not scorer.steps
    assert [d.reason for d in work.degradations] == ["busy"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_scores_count_as_unscored(make_work, bad):
    work = make_work(6)
    stage(Scorer(lambda doc: bad if doc == 0 else float(doc)), depth=6, weight=1.0).run(work)
    assert work.candidates.docs.tolist() == [5, 4, 3, 2, 1, 0]
    assert [(d.reason, d.given_up) for d in work.degradations] == [("bad_scores", "1 of 6 scores")]
    assert np.all(np.isfinite(work.candidates.scores["blend"][:5]))


def test_only_bad_scores_keep_the_order(make_work):
    work = make_work(4)
    stage(Scorer(lambda doc: np.nan), depth=4).run(work)
    assert work.candidates.docs.tolist() == [0, 1, 2, 3]
    assert "score" not in work.orders


def test_huge_logits_do_not_overflow(make_work):
    work = make_work(3)
    stage(Scorer(lambda doc: (-1e30, 0.0, 1e30)[doc]), weight=1.0).run(work)
    assert work.candidates.docs.tolist() == [2, 1, 0]
