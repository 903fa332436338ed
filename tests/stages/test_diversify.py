from __future__ import annotations

import numpy as np
import pytest

from searchpipe.stages.diversify import Diversify, QuotaRule


class Vectors:
    """Documents 2n and 2n + 1 are twins."""

    def vectors(self, docs):
        out = np.zeros((len(docs), 64), np.float32)
        out[np.arange(len(docs)), np.asarray(docs) // 2] = 1.0
        return out


class Brand:
    def groups(self, docs):
        return (np.asarray(docs) // 5).astype(np.int32)


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_twins_are_kept_apart(make_work, method):
    work = make_work(20, k=4)
    Diversify(Vectors(), method=method, trade_off=0.5).run(work)
    head = work.candidates.docs[:4]
    assert len(set((head // 2).tolist())) == 4
    assert sorted(work.candidates.docs.tolist()) == list(range(20))
    assert head[0] == 0


def test_relevance_alone_changes_nothing(make_work):
    work = make_work(20, k=10)
    Diversify(Vectors(), method="mmr", trade_off=1.0).run(work)
    assert work.candidates.docs.tolist() == list(range(20))
    assert work.decision == "0 of 10 places changed"


@pytest.mark.parametrize("method", ["mmr", "dpp", "none"])
def test_quotas_hold_with_every_method(make_work, method):
    work = make_work(40, k=10)
    Diversify(Vectors(), method=method, quotas=[QuotaRule("brand", Brand(), 2, 5)]).run(work)
    groups = Brand().groups(work.candidates.docs[:10])
    for start in range(6):
        assert np.bincount(groups[start : start + 5]).max() <= 2


def test_a_quota_that_cannot_hold_is_relaxed_and_said(make_work):
    work = make_work(4, k=4)
    Diversify(Vectors(), method="none", quotas=[QuotaRule("brand", Brand(), 2, 0)]).run(work)
    assert len(work.candidates) == 4
    assert len(work.moved) == 2


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_candidates_are_no_trouble(make_work, n):
    work = make_work(n, k=10)
    if not n:
        work = make_work(1).__class__(work.query, work.deadline, work.costs)
        from searchpipe.candidates import Candidates

        work.candidates = Candidates.empty()
    Diversify(Vectors()).run(work)
    assert len(work.candidates) == n


def test_a_page_longer_than_the_depth_is_filled(make_work):
    work = make_work(60, k=55)
    Diversify(Vectors(), depth=10).run(work)
    assert sorted(work.candidates.docs.tolist()) == list(range(60))
