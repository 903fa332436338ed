"""Scoring on an engine that predicts its costs: one request, shrunk to what fits, late rows unscored."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.candidates import Candidates
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline
from searchpipe.errors import OverloadedError
from searchpipe.gate import ComputeGate
from searchpipe.query import Query
from searchpipe.runtime.forecast import Forecast, Outlook
from searchpipe.runtime.pair_scorer import ChainPairScorer
from searchpipe.stages.base import Work
from searchpipe.stages.encode import Encode
from searchpipe.stages.score import _MARGIN, Score, _fitting

FAR = 600_000.0  # a budget in milliseconds that no test uses up


class Engine:
    """Predicts ``row_s`` a row behind ``wait_s``; scores grow with the document's number."""

    dim = 3

    def __init__(self, *, row_s=1e-3, wait_s=0.0, known=True, error=None):
        self.row_s, self.wait_s, self.known, self.error = row_s, wait_s, known, error
        self.late: set[int] = set()
        self.requests: list[tuple[list[int], float | None]] = []

    def lengths(self, query_ids, store, docs):
        return np.full(len(docs), 20, np.int32)

    def predict(self, lengths):
        return Forecast(self.wait_s, self.row_s * len(lengths)) if self.known else None

    def score(self, query_ids, store, docs, *, deadline=None, priority=0):
        self.requests.append((docs.tolist(), deadline))
        if self.error is not None:
            raise self.error
        if self.late:  # as when its batch came too late
            time.sleep(max(0.0, deadline - time.monotonic()))
        return np.array([np.nan if d in self.late else d / 100 for d in docs.tolist()], np.float32)

    def encode(self, token_ids, *, deadline=None, priority=0):
        self.requests.append(([len(ids) for ids in token_ids], deadline))
        if self.error is not None:
            raise self.error
        if self.late:
            time.sleep(max(0.0, deadline - time.monotonic()))
            return np.full((1, 3), np.nan, np.float32)
        return np.ones((1, 3), np.float32)


def run(engine, work, **settings):
    # A gate that lets nobody pass: an engine that merges its callers needs none.
    gate = ComputeGate()
    with gate.enter(work, priority=0, timeout_s=1):
        Score(engine, None, gate, weight=1.0, **settings).run(work)
    return work


def test_all_pairs_are_one_request(make_work):
    engine = Engine(row_s=1e-6)
    work = run(engine, make_work(300, budget_ms=FAR), depth=256, step_rows=4)
    ((docs, deadline),) = engine.requests
    assert docs == list(range(256))
    assert deadline - time.monotonic() == pytest.approx(FAR / 1e3 - 256e-6, abs=5)
    assert not work.degradations
    assert work.decision == "256 of 256 pairs"
    assert work.candidates.docs.tolist() == [*range(255, -1, -1), *range(256, 300)]


def test_without_a_limit_nothing_is_predicted_and_there_is_no_deadline(make_work):
    engine = Engine(known=False)
    run(engine, make_work(40), depth=40)
    assert engine.requests == [(list(range(40)), None)]


def test_a_request_is_shrunk_to_what_fits(make_work):
    engine = Engine(row_s=1.0)
    work = run(engine, make_work(50, budget_ms=12_500.0), depth=50)
    ((docs, deadline),) = engine.requests
    assert docs == list(range(10))  # 10 rows take 10 s, and a fifth more for what is not foreseen
    assert deadline - time.monotonic() <= 2.5
    ((said),) = work.degradations
    assert (said.reason, said.given_up) == ("shortened", "scored 10 of 50 candidates")
    assert said.amount == pytest.approx(0.8)


def test_late_rows_count_as_shortened(make_work):
    engine = Engine(row_s=1e-4)
    engine.late = {1, 3}
    work = run(engine, make_work(6, budget_ms=60.0), depth=6)
    assert [(d.reason, d.given_up) for d in work.degradations] == [("shortened", "scored 4 of 6 candidates")]
    assert work.candidates.docs.tolist() == [5, 4, 2, 0, 1, 3]
    assert np.isnan(work.candidates.scores["score"][-2:]).all()
    assert np.all(np.diff(work.candidates.scores["blend"]) <= 0)


def test_all_rows_late_keeps_the_order(make_work):
    engine = Engine(row_s=1e-4)
    engine.late = set(range(4))
    work = run(engine, make_work(4, budget_ms=60.0), depth=4)
    assert [d.reason for d in work.degradations] == ["busy"]
    assert work.candidates.docs.tolist() == [0, 1, 2, 3]
    assert "score" not in work.orders


def test_nan_in_time_is_a_bad_score(make_work):
    engine = Engine(row_s=1e-6)
    engine.score = lambda q, s, docs, deadline=None, priority=0: np.array([1.0, np.nan, 3.0], np.float32)
    work = run(engine, make_work(3, budget_ms=FAR), depth=3)
    assert [(d.reason, d.given_up) for d in work.degradations] == [("bad_scores", "1 of 3 scores")]


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (Engine(row_s=1e-4, wait_s=100.0), "busy"),
        (Engine(row_s=100.0), "deadline"),
        (Engine(row_s=1e-6, error=OverloadedError("full")), "busy"),
    ],
)
def test_what_does_not_fit_at_all_is_given_up_with_the_reason(make_work, engine, reason):
    work = run(engine, make_work(5, budget_ms=1000.0))
    assert [(d.reason, d.given_up) for d in work.degradations] == [(reason, "scored 0 of 5 candidates")]
    assert work.candidates.docs.tolist() == [0, 1, 2, 3, 4]


def test_an_engine_that_cannot_tell_now_goes_by_steps(make_work):
    engine = Engine(known=False)
    Score(engine, None, ComputeGate(), step_rows=4).run(make_work(8, budget_ms=FAR))
    assert [len(docs) for docs, _ in engine.requests] == [1, 1, 2, 4]
    assert all(deadline is None for _, deadline in engine.requests)


@given(
    count=st.integers(1, 300),
    wait_s=st.floats(0, 2),
    row_s=st.floats(1e-5, 1),
    allowance=st.floats(-1, 50),
)
def test_the_largest_request_that_fits_is_found(count, wait_s, row_s, allowance):
    engine = Engine(row_s=row_s, wait_s=wait_s)
    rows, forecast = _fitting(engine, np.full(count, 20, np.int32), allowance)

    def fits(n):
        return wait_s + _MARGIN * (row_s * n) <= allowance

    assert rows == max((n for n in range(1, count + 1) if fits(n)), default=0)
    assert forecast == Forecast(wait_s, row_s * max(rows, 1))


class Foreseeing(Engine):
    """Measures and predicts in one, and takes its own forecast back."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.predicted: list[int] = []
        self.forecasts: list[Forecast | None] = []

    def predict(self, lengths):
        self.predicted.append(len(lengths))
        return super().predict(lengths)

    def outlook(self, query_ids, store, docs):
        lengths = self.lengths(query_ids, store, docs)
        return Outlook(lengths, int(lengths.sum()), super().predict(lengths))

    def score(self, query_ids, store, docs, *, deadline=None, priority=0, forecast=None):
        self.forecasts.append(forecast)
        return super().score(query_ids, store, docs, deadline=deadline, priority=priority)


def test_an_outlook_that_fits_is_not_predicted_again(make_work):
    engine = Foreseeing(row_s=1e-6, wait_s=0.25)
    work = run(engine, make_work(300, budget_ms=FAR), depth=256)
    assert engine.predicted == []
    assert engine.forecasts == [Forecast(0.25, pytest.approx(256e-6))]
    assert work.decision == "256 of 256 pairs"


def test_an_outlook_that_does_not_fit_is_shrunk(make_work):
    engine = Foreseeing(row_s=1.0)
    work = run(engine, make_work(50, budget_ms=12_500.0), depth=50)
    assert [len(docs) for docs, _ in engine.requests] == [10]
    assert engine.forecasts == [Forecast(0.0, 10.0)]
    assert 50 not in engine.predicted
    assert [d.given_up for d in work.degradations] == ["scored 10 of 50 candidates"]


def test_documents_are_read_ahead_as_they_are_measured_later(make_work):
    engine, work = Foreseeing(), make_work(8)
    seen = []
    engine.outlook = lambda query, store, docs: seen.append((query, docs.tolist()))
    stage = Score(engine, None, ComputeGate(), depth=3)
    stage.read_ahead(work)
    assert [docs for _, docs in seen] == [work.candidates.docs[:3].tolist()]
    Score(Engine(), None, ComputeGate()).read_ahead(work)
    assert len(seen) == 1


@pytest.mark.parametrize("budget_ms", [FAR, math.inf])
def test_an_outlook_without_a_forecast_goes_by_steps_unless_there_is_no_limit(make_work, budget_ms):
    engine = Foreseeing(known=False)
    Score(engine, None, ComputeGate(), step_rows=4).run(make_work(8, budget_ms=budget_ms))
    at_once = math.isinf(budget_ms)
    assert [len(docs) for docs, _ in engine.requests] == ([8] if at_once else [1, 1, 2, 4])
    assert engine.forecasts == [None] * len(engine.requests)


@pytest.mark.parametrize(
    "kind", [np.float64, np.float32, list, lambda s: s.astype(np.float32)[::1].reshape(1, -1)]
)
def test_scores_of_other_kinds_are_taken_too(make_work, kind):
    engine = Engine(row_s=1e-6)
    engine.score = lambda q, s, docs, deadline=None, priority=0: (
        [float(d) for d in docs] if kind is list else kind(docs.astype(np.float64))
    )
    work = run(engine, make_work(5, budget_ms=FAR), depth=4)
    assert work.candidates.docs.tolist() == [3, 2, 1, 0, 4]
    assert work.candidates.scores["score"].dtype == np.float32
    assert not work.degradations


def query(budget_ms):
    work = Work(Query("red shoes", 10, {}, {}), Deadline(budget_ms), CostModel())
    work.stage, work.tokens = "encode", np.array([5, 6], np.int32)
    return work


def encode(engine, budget_ms):
    work, gate = query(budget_ms), ComputeGate()
    with gate.enter(work, priority=0, timeout_s=1):
        Encode(engine, gate).run(work)
    return work


class Alone(Engine):
    """Has the shorter way for one text, and no other."""

    def predict_row(self, length):
        return self.predict(np.full(1, length))

    def encode_row(self, tokens, **asked):
        self.meanwhile = asked.pop("meanwhile", None)
        [vector] = super().encode([tokens], **asked)
        return vector

    def encode(self, texts, *, meanwhile=None):
        raise AssertionError("not asked for one text")


def test_one_text_takes_the_shorter_way():
    engine = Alone(row_s=1e-3)
    work = encode(engine, FAR)
    assert [lengths for lengths, _ in engine.requests] == [[2]]
    np.testing.assert_array_equal(work.vector, encode(Engine(row_s=1e-3), FAR).vector)
    assert work.vector.ndim == 1
    assert work.decision == "2 tokens"


def test_one_text_that_does_not_fit_is_given_up():
    work = encode(Alone(row_s=1e3), 50.0)
    assert work.vector is None
    assert [d.reason for d in work.degradations] == ["deadline"]


def test_encoding_passes_the_deadline_on():
    engine = Engine(row_s=1e-3)
    work = encode(engine, FAR)
    ((lengths, deadline),) = engine.requests
    assert lengths == [2]
    assert deadline - time.monotonic() == pytest.approx(FAR / 1e3, abs=5)
    assert work.vector is not None
    assert encode(Engine(known=False), math.inf).vector is not None


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (Engine(wait_s=100.0), "busy"),
        (Engine(row_s=100.0), "deadline"),
        (Engine(error=OverloadedError("full")), "busy"),
    ],
)
def test_encoding_that_does_not_fit_is_given_up_with_the_reason(engine, reason):
    work = encode(engine, 1000.0)
    assert work.vector is None
    assert [d.reason for d in work.degradations] == [reason]


def test_a_vector_that_came_too_late_is_none():
    engine = Engine(row_s=1e-4)
    engine.late = {0}
    work = encode(engine, 60.0)
    assert work.vector is None
    assert [d.reason for d in work.degradations] == ["busy"]


def test_the_querys_priority_reaches_the_engine():
    asked = []

    class Urgent(Engine):
        def score(self, query_ids, store, docs, *, deadline=None, priority=0):
            asked.append(("score", priority))
            return super().score(query_ids, store, docs, deadline=deadline)

        def encode(self, token_ids, *, deadline=None, priority=0):
            asked.append(("encode", priority))
            return super().encode(token_ids, deadline=deadline)

    urgent = Work(Query("q", 1, priority=9), Deadline(FAR), CostModel())
    urgent.tokens = urgent.pair_tokens = np.arange(3, dtype=np.int32)
    urgent.candidates = Candidates.of(np.arange(4, dtype=np.int32), {"fused": np.ones(4, np.float32)})
    gate = ComputeGate()
    Encode(Urgent(), gate).run(urgent)
    Score(Urgent(), None, gate).run(urgent)
    assert asked == [("encode", 9), ("score", 9)]
    assert urgent.units == 4


def test_a_scorer_whose_score_was_written_anew_is_asked_by_that_alone():
    class Louder(ChainPairScorer):
        def score(self, *args, **named):
            return 2 * super().score(*args, **named)

    for kind, plans in ((ChainPairScorer, True), (Louder, False)):
        stage = Score(object.__new__(kind), None, ComputeGate())
        assert (stage._plans is not None) == plans
