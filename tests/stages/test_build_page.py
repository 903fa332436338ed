from __future__ import annotations

import numpy as np

from searchpipe.stages.build_page import BuildPage


class Display:
    def id_of(self, docs):
        return [f"P{d}" for d in docs]

    def fields(self, docs):
        return [{"title": f"Product {d}"} for d in docs]


def test_hits_carry_scores_and_reasons(make_work):
    work = make_work(5, k=3)
    docs = work.candidates.docs
    work.orders = {"lexical": docs[[1, 0]], "dense": docs[[2, 1]], "fused": docs[[1, 0, 2]], "score": docs}
    work.candidates.scores["score"] = np.array([2.0, np.nan, 1.0, 0.0, 0.0], np.float32)
    work.moved[2] = "a quota was relaxed"
    BuildPage(Display()).run(work)
    first, second, third = work.hits
    assert [h.id for h in work.hits] == ["P0", "P1", "P2"]
    assert [h.rank for h in work.hits] == [1, 2, 3]
    assert first.fields == {"title": "Product 0"}
    assert first.scores["score"] == 2.0
    assert "score" not in second.scores  # never scored
    assert first.reasons == (
        "lexical rank 2",
        "not found by dense recall",
        "fused rank 2",
        "score moved it up 1",
    )
    assert second.reasons[-1] == "score moved it down 1"
    assert third.reasons[-1] == "a quota was relaxed"


def test_no_candidates_make_an_empty_page(make_work):
    work = make_work(1)
    work.candidates = work.candidates.take(np.zeros(0, int))
    BuildPage(Display()).run(work)
    assert work.hits == []
