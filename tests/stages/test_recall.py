from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from searchpipe.errors import EngineError
from searchpipe.stages.recall import Dense, Lexical, Recall


class Source:
    def __init__(self, name, docs, scores=None, *, error=None, ready=True):
        self.name, self.error, self.is_ready = name, error, ready
        self.docs = np.array(docs, np.int32)
        self.scores = np.linspace(1, 0, len(docs), dtype=np.float32) if scores is None else scores
        self.asked = []

    def ready(self, work):
        return self.is_ready

    def search(self, work, depth, mask):
        self.asked.append((depth, mask))
        if self.error:
            raise self.error
        return self.docs[:depth], self.scores[:depth]


def no_mask(filters):
    return None


def test_sources_are_fused_and_their_scores_kept(make_work):
    a, b = Source("lexical", [3, 1, 2]), Source("dense", [1, 9])
    work = make_work()
    Recall([a, b], no_mask).run(work)
    found = work.candidates
    assert found.docs[0] == 1  # in both lists
    assert sorted(found.docs) == [1, 2, 3, 9]
    assert found.scores["fused"][0] == pytest.approx(1 / 62 + 1 / 61, rel=1e-5)
    dense = dict(zip(found.docs.tolist(), found.scores["dense"].tolist(), strict=True))
    assert dense[1] == 1.0
    assert np.isnan(dense[3])
    assert list(work.orders) == ["lexical", "dense", "fused"]
    assert "3 lexical + 2 dense -> 4" in work.decision


def test_weights_and_the_other_fusion_are_honoured(make_work):
    a, b = Source("lexical", [1, 2]), Source("dense", [2, 1])
    work = make_work()
    Recall([a, b], no_mask, weights={"dense": 3.0}).run(work)
    assert work.candidates.docs[0] == 2
    work = make_work()
    Recall([a, b], no_mask, fusion="weighted", weights={"lexical": 3.0}).run(work)
    assert work.candidates.docs[0] == 1


def test_the_depth_covers_the_page(make_work):
    source = Source("lexical", range(50))
    Recall([source], no_mask, depth=5).run(make_work(k=20))
    assert source.asked[0][0] == 20


def test_one_dead_source_is_left_out_and_said(make_work):
    work = make_work()
    Recall([Source("lexical", [1], error=OSError("disk")), Source("dense", [4, 5])], no_mask).run(work)
    assert work.candidates.docs.tolist() == [4, 5]
    assert work.degradations[0].reason == "stage_failed"
    assert "lexical recall (OSError: disk)" in work.degradations[0].given_up


@pytest.mark.parametrize("others", [[4, 5], None])
def test_a_dead_source_leaves_no_garbage(make_work, others):
    class Dead(Source):
        def search(self, work, depth, mask):
            raise OSError("disk")

    sources = [Dead("lexical", [1]), Source("dense", others) if others else Dead("dense", [1])]
    gc.collect()
    gc.disable()
    try:
        work = make_work()
        work.vector = np.zeros(3, np.float32)
        held = weakref.ref(work.vector)
        try:
            Recall(sources, no_mask).run(work)
        except EngineError:
            assert others is None
        del work
        assert held() is None
    finally:
        gc.enable()


def test_all_sources_dead_is_an_error(make_work):
    with pytest.raises(EngineError, match="Every recall source"):
        Recall([Source("lexical", [1], error=OSError("disk"))], no_mask).run(make_work())


def test_scores_that_are_no_numbers_do_not_count(make_work):
    work = make_work()
    broken = Source("dense", [7, 8], np.array([np.nan, 1], np.float32))
    Recall([Source("lexical", [1]), broken], no_mask).run(work)
    assert work.candidates.docs.tolist() == [1]
    assert [d.reason for d in work.degradations] == ["bad_scores"]


def test_a_second_source_is_given_up_when_time_is_short(make_work):
    now = [0.0]
    work = make_work(budget_ms=10, clock=lambda: now[0])
    now[0] = 0.02
    second = Source("dense", [9])
    Recall([Source("lexical", [1]), second], no_mask).run(work)
    assert work.candidates.docs.tolist() == [1]
    assert not second.asked
    assert [(d.reason, d.given_up) for d in work.degradations] == [("deadline", "dense recall")]


def test_filters_become_a_mask_and_one_that_matches_nothing_ends_it(make_work):
    mask = np.array([True, False])
    source = Source("lexical", [0])
    Recall([source], lambda filters: mask).run(make_work(filters={"price": 1}))
    assert source.asked[0][1] is mask
    work = make_work(filters={"price": 1})
    Recall([source], lambda filters: np.zeros(2, bool)).run(work)
    assert len(work.candidates) == 0
    assert "match no product" in work.decision
    assert len(source.asked) == 1


def test_nothing_found_is_an_empty_list_not_an_error(make_work):
    work = make_work()
    Recall([Source("lexical", []), Source("dense", [1], ready=False)], no_mask).run(work)
    assert len(work.candidates) == 0


class Index:
    def search(self, query, k, *, mask=None):
        return np.array([1], np.int32), np.array([0.5], np.float32)


def test_dense_needs_a_vector_and_lexical_only_text(make_work):
    work = make_work()
    assert Lexical(Index()).ready(work)
    assert not Dense(Index()).ready(work)
    work.vector = np.zeros(3, np.float32)
    assert Dense(Index()).ready(work)
    assert Dense(Index()).search(work, 5, None)[0].tolist() == [1]
