"""What later stages prepare while the cross-encoder works changes no page, and cannot lose one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.candidates import Candidates
from searchpipe.gate import ComputeGate
from searchpipe.pipeline import Pipeline
from searchpipe.runtime.forecast import Forecast
from searchpipe.stages.base import PreparingStage
from searchpipe.stages.build_page import BuildPage
from searchpipe.stages.diversify import Diversify, QuotaRule
from searchpipe.stages.score import Score

CATALOG = 400


class Unhurried:
    """A scorer as it was before there was a gap: pseudo-random logits, the same for a document and seed."""

    def __init__(self, seed=0, error=None, bad=0.0):
        self.seed, self.error, self.bad = seed, error, bad

    def lengths(self, query_ids, store, docs):
        return np.full(len(docs), 20, np.int32)

    def predict(self, lengths):
        return Forecast(0.0, 1e-6 * len(lengths))

    def score(self, query_ids, store, docs, *, deadline=None, priority=0):
        if self.error is not None:
            raise self.error
        logits = np.random.default_rng(self.seed).normal(size=CATALOG).astype(np.float32)
        if self.bad:
            logits[np.random.default_rng(self.seed + 1).random(CATALOG) < self.bad] = np.nan
        return logits[docs]


class Busy(Unhurried):
    """Uses the gap."""

    def score(self, query_ids, store, docs, *, deadline=None, priority=0, meanwhile=None):
        meanwhile()
        return super().score(query_ids, store, docs)


class Catalog:
    """Vectors, groups and display fields of documents; counts who asks for groups."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.matrix = rng.normal(size=(CATALOG, 16)).astype(np.float32)
        self.brands = rng.integers(-1, 6, CATALOG).astype(np.int32)
        self.asked = []

    def vectors(self, docs):
        return self.matrix[docs]

    def groups(self, docs):
        self.asked.append(len(docs))
        return self.brands[docs]

    def id_of(self, docs):
        return [f"P{d}" for d in docs]

    def fields(self, docs):
        return [{"title": f"Product {d}"} for d in docs]


class Recalled:
    name, reads, essential = "recall", (), True
    writes = ("candidates", "pair_tokens")

    def __init__(self, count, seed):
        self.count, self.seed = count, seed

    def run(self, work):
        docs = np.random.default_rng(self.seed).permutation(CATALOG)[: self.count].astype(np.int32)
        work.candidates = Candidates.of(docs, {"fused": np.linspace(1, 0, self.count, dtype=np.float32)})
        work.orders["fused"] = docs
        work.pair_tokens = np.array([5, 6], np.int32)

    def describe(self):
        return "recall"


class Own:
    """A stage of the user's own between scoring and diversifying."""

    name, reads, writes, essential = "own", ("candidates",), ("candidates",), False

    def __init__(self, change):
        self.change = change

    def run(self, work):
        self.change(work)

    def describe(self):
        return "own"


def pages(scorer, *, count=120, seed=0, own=None, without=(), k=10, catalog=None, depth=50, stages=None):
    catalog = catalog or Catalog()
    quotas = [QuotaRule("brand", catalog, 2, 5), QuotaRule("brand", catalog, 4, 0)]
    row = [
        Recalled(count, seed),
        Score(scorer, None, ComputeGate(), depth=60),
        *([Own(own)] if own else []),
        Diversify(catalog, quotas=quotas, depth=depth, trade_off=0.6),
        BuildPage(catalog),
    ]
    with Pipeline(stages(row) if stages else row) as pipeline:
        return pipeline.search("red shoes", k=k, budget_ms=60_000, without=without)


def said(page):
    """All of a page but its times."""
    spans = [(s.stage, s.n_in, s.n_out, s.decision, s.units) for s in page.trace.spans]
    return page.hits, page.degradations, spans


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 200),
    k=st.integers(1, 60),
    depth=st.integers(1, 80),
    bad=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_a_prepared_page_is_the_same(seed, count, k, depth, bad):
    settings = {"seed": seed, "count": count, "k": k, "depth": depth}
    unprepared = pages(Unhurried(seed, bad=bad), **settings)
    prepared = pages(Busy(seed, bad=bad), **settings)
    assert said(prepared) == said(unprepared)


def test_groups_are_looked_up_once_for_each_rule_in_the_gap():
    catalog = Catalog()
    pages(Busy(), catalog=catalog)
    assert catalog.asked == [120, 120]  # of all candidates, and not again afterwards
    catalog.asked.clear()
    pages(Unhurried(), catalog=catalog)
    assert catalog.asked == [50, 50]


def reversed_in_place(work):
    found = work.candidates
    found.docs = found.docs[::-1].copy()
    found.scores = {name: column[::-1].copy() for name, column in found.scores.items()}


def halved(work):
    work.candidates = work.candidates.take(np.arange(0, len(work.candidates), 2))


def masked(work):
    work.candidates = work.candidates.take(work.candidates.docs % 3 > 0)


def others(work):
    work.candidates = Candidates.of(np.arange(30, dtype=np.int32), {"fused": np.ones(30, np.float32)})


@pytest.mark.parametrize("own", [reversed_in_place, halved, masked, others])
@pytest.mark.parametrize("seed", range(5))
def test_candidates_may_change_after_they_were_prepared_for(own, seed):
    unprepared = pages(Unhurried(seed), seed=seed, own=own)
    assert said(pages(Busy(seed), seed=seed, own=own)) == said(unprepared)


def test_a_stage_that_cannot_prepare_does_everything_in_its_turn(monkeypatch):
    tried = []

    def fail(self, work):
        tried.append(work.stage)
        raise RuntimeError("no memory")

    whole = pages(Unhurried())
    monkeypatch.setattr(Diversify, "prepare", fail)
    page = pages(Busy())
    assert tried == ["score"]
    assert not page.degraded
    assert said(page) == said(whole)


def test_scores_that_fail_after_the_gap_leave_the_order_before():
    plain = pages(Unhurried(error=RuntimeError("CUDA error 700")))

    class Fails(Busy):
        def score(self, *asked, **named):
            named["meanwhile"]()
            raise RuntimeError("CUDA error 700")

    assert said(pages(Fails())) == said(plain)
    assert [d.reason for d in plain.degradations] == ["stage_failed"]


def test_a_stage_that_is_switched_off_prepares_nothing():
    catalog = Catalog()
    page = pages(Busy(), catalog=catalog, without=("diversify",))
    assert catalog.asked == []
    assert said(page) == said(pages(Unhurried(), without=("diversify",)))
    pages(Busy(), catalog=catalog, without=("score",))
    assert catalog.asked == [50, 50]  # there was no gap


def test_a_query_whose_caller_left_prepares_nothing(make_work):
    work, catalog = make_work(20), Catalog()
    work.later = (Diversify(catalog, quotas=[QuotaRule("brand", catalog, 2, 5)]),)
    work.deadline.cancel()
    work.prepare_later()
    assert catalog.asked == []
    assert work.later == ()


def test_a_gap_is_used_once(make_work):
    work, catalog = make_work(20), Catalog()
    work.later = (Diversify(catalog, quotas=[QuotaRule("brand", catalog, 2, 5)]),)
    work.prepare_later()
    work.prepare_later()
    assert catalog.asked == [20]


def test_another_method_of_that_name_is_left_alone():
    class Mine(Own):
        def prepare(self, path):
            raise AssertionError("this is about a file")

    called = []
    mine = Mine(lambda work: called.append(work.stage))
    assert not isinstance(mine, PreparingStage)
    page = pages(Busy(), stages=lambda row: [*row[:2], mine, *row[2:]])
    assert called == ["own"]
    assert not page.degraded


def test_in_steps_there_is_no_gap():
    class Steps:
        """A scorer that cannot predict."""

        lengths = Unhurried.lengths

        def score(self, query_ids, store, docs):
            return Unhurried().score(query_ids, store, docs)

    catalog = Catalog()
    page = pages(Steps(), catalog=catalog)
    assert not page.degraded
    assert catalog.asked == [50, 50]


class Indexed(Catalog):
    """Has its vectors in one array, and reads ahead what is shown."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error
        self.touched = []

    @property
    def dense(self):
        return type("Dense", (), {"vectors": self.matrix})

    def vectors(self, docs):
        raise AssertionError("copied")

    def touch(self, docs):
        self.touched.append(docs.tolist())
        if self.error is not None:
            raise self.error


def test_vectors_in_one_array_are_read_in_place():
    for seed in range(5):
        assert said(pages(Busy(seed), catalog=Indexed())) == said(pages(Busy(seed)))


def test_the_candidates_that_are_likely_on_the_page_are_read_ahead():
    catalog = Indexed()
    page = pages(Busy(), catalog=catalog, count=400)
    [docs] = catalog.touched
    ranked = np.random.default_rng(0).permutation(CATALOG)
    assert docs == ranked[:64].tolist()
    assert said(page) == said(pages(Unhurried(), catalog=Indexed(), count=400))
    pages(Unhurried(), catalog=catalog)
    assert len(catalog.touched) == 1  # there was no gap
    pages(Busy(), catalog=catalog, count=0)
    assert len(catalog.touched) == 1


@pytest.mark.parametrize("error", [OSError("the disk is gone"), MemoryError()])
def test_reading_ahead_may_fail(error):
    catalog = Indexed(error)
    page = pages(Busy(), catalog=catalog)
    assert len(catalog.touched) == 1
    assert not page.degraded
    assert said(page) == said(pages(Unhurried(), catalog=Indexed()))


def test_only_a_display_that_can_read_ahead_prepares():
    assert BuildPage(Indexed()).prepares
    assert not BuildPage(Catalog()).prepares
