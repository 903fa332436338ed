"""What a plan makes of the last list: what the stages make of it one by one; and requests in two halves."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchpipe import _core
from searchpipe.arrays import Float32, Int32
from searchpipe.candidates import Candidates
from searchpipe.errors import ClosedError

COUNT = 60
QUERY = np.array([7, 8, 9], np.int32)
POPULAR: Float32 = np.random.default_rng(1).random(COUNT, np.float32)
PLACES: Float32 = (1 / (1 + np.arange(4096) / 10)).astype(np.float32)
PACKER = _core.PairPacker(cls_id=1, sep_id=2, max_query_tokens=8, max_doc_tokens=24, max_tokens=32)
WEIGHTS = {"dense": 0.5}


class Engine:
    """Scores a pair by the sum of its ids, once it may."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.executor = _core.HostExecutor(
            self._compute, [(16, 32), (64, 32)], costs=[(1.0, 0.0), (3.0, 0.0)]
        )
        self.scorer = _core.Scorer(self.executor)
        self.cost = _core.RequestCost(self.executor)

    def _compute(self, ids: Int32, mask: Int32, _types: Int32 | None, out: Float32) -> None:
        assert self.go.wait(30)
        out[:, 0] = (ids * mask).sum(axis=1)


@pytest.fixture
def engine() -> Iterator[Engine]:
    one = Engine()
    yield one
    one.go.set()
    one.scorer.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> _core.TokenStore:
    path = tmp_path_factory.mktemp("documents") / "tokens"
    rng = np.random.default_rng(2)
    with _core.TokenStoreWriter(path) as writer:
        for length in rng.integers(1, 30, COUNT).tolist():
            writer.append(rng.integers(100, 1000, length).astype(np.int32))
    return _core.TokenStore(path)


def found(docs: list[int], seed: int) -> tuple[Int32, Float32]:
    scores = np.sort(np.random.default_rng(seed).random(len(docs), np.float32))[::-1]
    return np.array(docs, np.int32), scores.copy()


def planned(store: _core.TokenStore, lists: dict[str, Any], formula: Any, **options: Any) -> _core.HeadPlan:
    method, depth = options.get("method", "rrf"), options.get("depth", 20)
    return _core.HeadPlan(lists, WEIGHTS, method, 60.0, formula, depth, PACKER, store, QUERY)


def begin(plan: _core.HeadPlan, engine: Engine, one: tuple[Int32, Float32], *limit: float) -> Any:
    return plan.begin(*one, engine.scorer, engine.cost, *(limit or (math.inf, 0.0, 0.0, 1.0)))


FORMULA: list[tuple[Any, Any, float]] = [
    ("fused", None, 1.0),
    ("list", "lexical", 0.5),
    ("list", "nobody", 3.0),
    ("by document", POPULAR, 0.25),
    ("by place", PLACES, 0.125),
]
documents = st.lists(st.integers(0, COUNT - 1), unique=True, max_size=30)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents, documents, st.integers(0, 40), st.sampled_from(["rrf", "minmax"]), st.booleans(), st.booleans()
)
def test_it_does_what_the_stages_do(
    engine: Engine,
    store: _core.TokenStore,
    lexical: list[int],
    dense: list[int],
    depth: int,
    method: Any,
    ordered: bool,
    lexical_first: bool,
) -> None:
    lists = {"lexical": found(lexical, 3), "dense": found(dense, 4)}
    if not lexical_first:
        lists = dict(reversed(lists.items()))
    plan = planned(store, {**lists, "dense": None}, FORMULA if ordered else None, depth=depth, method=method)
    plan.rehearse(*lists["lexical"], engine.scorer, engine.cost)
    flight = begin(plan, engine, lists["dense"])
    docs, scores = _core.fuse_found(lists, WEIGHTS, method, 60.0, "fused")
    if not len(docs):
        assert flight is None
        with pytest.raises(RuntimeError, match="nothing was begun"):
            plan.fused("fused")
        return
    assert flight.finish(30)
    fused = Candidates(docs, scores)
    assert_same(Candidates(*plan.fused("fused")), fused)
    if ordered:
        parts = [
            ("scaled", scores["fused"]),
            ("scaled", scores["lexical"]),
            None,
            ("by document", POPULAR),
            ("by place", PLACES),
        ]
        weights = np.array([weight for *_, weight in FORMULA], np.float32)
        best = fused.ordered_by("prerank", _core.weigh_features(docs, parts, weights))
        assert best is not None
        assert_same(Candidates(*plan.ordered("fused", "prerank")), best)
        fused = best
    pairs = fused.docs[:depth]
    lengths, tokens, seconds = engine.cost.of_pairs(PACKER, store, QUERY, pairs)
    assert (plan.tokens, plan.seconds, plan.deadline) == (tokens, seconds, None)
    alone = engine.scorer.prepare_pairs(PACKER, store, QUERY, pairs)
    assert engine.scorer.run(alone, 30)
    np.testing.assert_array_equal(plan.ticket.scores(), alone.scores())
    assert len(lengths) == plan.ticket.rows


def assert_same(one: Candidates, other: Candidates) -> None:
    np.testing.assert_array_equal(one.docs, other.docs)
    assert list(one.scores) == list(other.scores)
    for name, column in one.scores.items():
        np.testing.assert_array_equal(column, other.scores[name])


def test_a_limit_is_kept_and_becomes_a_deadline(engine: Engine, store: _core.TokenStore) -> None:
    lists = {"lexical": found([1, 2, 3], 3), "dense": None}
    dense = found([4, 5], 4)
    for allowance in (0.0029, 0.0):  # the batch costs 1 ms, it is handed over in 1, and 1 ms goes before
        assert begin(planned(store, lists, None), engine, dense, allowance, 0.001, 0.001, 1.0) is None
    assert begin(planned(store, lists, None), engine, dense, 4.0, 0.0, 0.001, 2001.0) is None
    plan = planned(store, lists, None)
    since = time.monotonic()
    assert begin(plan, engine, dense, 100.0, 0.001, 0.001, 2.0).finish(30)
    assert plan.deadline is not None
    assert since + 99.998 <= plan.deadline <= time.monotonic() + 99.998
    assert engine.scorer.stats().requests == 1


def test_what_cannot_be_planned_is_named(engine: Engine, store: _core.TokenStore) -> None:
    one = found([1, 2], 3)
    for lists, why in (
        ({"lexical": one}, "None is missing"),
        ({"lexical": None, "dense": None}, "more than one list"),
    ):
        with pytest.raises(ValueError, match=why):
            planned(store, lists, None)
    lists = {"lexical": one, "dense": None}
    with pytest.raises(ValueError, match="'zscore'"):
        planned(store, lists, None, method="zscore")
    with pytest.raises(ValueError, match="depth is -1"):
        planned(store, lists, None, depth=-1)
    with pytest.raises(ValueError, match="'scaled'"):
        planned(store, lists, [("scaled", None, 1.0)])
    with pytest.raises(TypeError, match="no triple"):
        planned(store, lists, [("fused", None)])
    with pytest.raises(IndexError, match=r"document 2 is outside of 0\.\.1"):
        begin(planned(store, lists, [("by document", POPULAR[:1], 1.0)]), engine, found([2], 3))
    with pytest.raises(ValueError, match="0 of 3 places"):
        begin(planned(store, lists, [("by place", PLACES[:0], 1.0)]), engine, found([3], 3))
    with pytest.raises(IndexError):
        begin(planned(store, lists, None), engine, found([COUNT], 3))
    nan = np.array([np.nan], np.float32)
    assert (
        begin(planned(store, lists, [("by document", np.full(COUNT, np.nan, np.float32), 1.0)]), engine, one)
        is None
    )
    with pytest.raises(ValueError, match=r"finite|NaN"):
        begin(planned(store, lists, None, method="minmax"), engine, (np.array([3], np.int32), nan))
    plan = planned(store, lists, None)
    assert begin(plan, engine, one).finish(30)
    with pytest.raises(ValueError, match="before"):
        begin(plan, engine, one)
    with pytest.raises(ValueError, match="no formula"):
        plan.ordered("fused", "prerank")
    assert engine.scorer.stats().requests == 1


def pairs(engine: Engine, store: _core.TokenStore) -> _core.Ticket:
    return engine.scorer.prepare_pairs(PACKER, store, QUERY, np.arange(5, dtype=np.int32))


def test_a_request_in_two_halves(engine: Engine, store: _core.TokenStore) -> None:
    ticket, called = pairs(engine, store), []
    engine.go.clear()
    flight = engine.scorer.begin(ticket)
    assert not flight.finish(0.01, lambda: called.append("meanwhile"))
    assert (ticket.status, called) == ("pending", ["meanwhile"])
    engine.go.set()
    assert ticket.wait(30)
    assert ticket.scored == 5


def test_a_dropped_half_ends_by_itself(engine: Engine, store: _core.TokenStore) -> None:
    engine.go.clear()
    ticket = pairs(engine, store)
    flight = engine.scorer.begin(ticket)
    del flight
    engine.go.set()
    assert ticket.wait(30)
    assert ticket.scored == 5
    kept = engine.scorer.begin(pairs(engine, store))
    engine.scorer.close()
    assert kept.finish(30)
    with pytest.raises(ClosedError):
        engine.scorer.begin(pairs(engine, store))
