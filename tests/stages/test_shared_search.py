"""A search that threads of the core work on: who begins it, when, and what is left to the query's thread."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from searchpipe._core import PostingsWriter, SearchThreads
from searchpipe.catalog.analysis import Analyzer, AnalyzerSpec
from searchpipe.catalog.lexical import POSTINGS, LexicalIndex
from searchpipe.stages.recall import Lexical, Recall

COUNT, DEPTH = 40_000, 50


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lexical")
    analyzer = Analyzer(AnalyzerSpec())
    names = ["red", "shoes", "blue", "hat"]
    random = np.random.default_rng(1)
    with PostingsWriter(folder / POSTINGS, fields=1) as writer:
        for picked in random.random((COUNT, len(names))) < 0.2:
            text = " ".join(name for name, has in zip(names, picked, strict=True) if has)
            writer.append([analyzer.document_terms(text)])
    return LexicalIndex(folder, COUNT, analyzer, {"all": 1.0}, 8)


@pytest.fixture
def threads():
    lent = SearchThreads(4)
    yield lent
    lent.close()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as threads:
        yield threads


class Waits:
    """An earlier stage that leaves later ones time."""

    name, leaves_time = "encode", True


def stage(index, pool, threads, *, after=(), mask_of=lambda filters: None):
    recall = Recall([Lexical(index)], mask_of, depth=DEPTH, pool=pool, threads=threads, helpers=2)
    recall.preceded_by(after)
    return recall


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
def test_candidates_are_those_of_one_thread(make_work, index, pool, threads, busy, filtered):
    mask = np.arange(COUNT) % 3 == 0
    filters = {"third": True} if filtered else None
    plain = make_work(filters=filters)
    Recall([Lexical(index)], lambda _: mask, depth=DEPTH).run(plain)
    if busy:
        threads.close()  # none is to be had: the query does it all
    for budget_ms in (math.inf, 60_000.0):
        work = make_work(filters=filters, budget_ms=budget_ms)
        recall = stage(index, pool, threads, mask_of=lambda _: mask)
        recall.start_early(work)
        assert work.early["lexical"]._divided is not None
        recall.run(work)
        np.testing.assert_array_equal(work.candidates.docs, plain.candidates.docs)
        np.testing.assert_array_equal(
            work.candidates.scores["lexical"], plain.candidates.scores["lexical"], strict=True
        )
        assert not work.degradations
        assert work.costs.predict("lexical", DEPTH) is not None


def test_it_begins_once_an_earlier_stage_waits(make_work, index, pool, threads):
    recall, work = stage(index, pool, threads, after=[Waits()]), make_work()
    recall.start_early(work)
    assert not work.early
    recall.prepare(work)
    begun = work.early["lexical"]
    recall.prepare(work)
    assert work.early["lexical"] is begun
    recall.run(work)
    assert len(work.candidates) == DEPTH


def test_it_begins_at_once_if_none_will_wait(make_work, index, pool, threads):
    recall = stage(index, pool, threads, after=[Waits()])
    work = make_work(without=("encode",))
    recall.start_early(work)
    assert "lexical" in work.early
    late = stage(index, pool, threads, after=[object(), type("Other", (), {"name": "tokenize"})()])
    late.start_early(work := make_work())
    assert "lexical" in work.early


def test_it_begins_in_its_turn_if_none_has_waited(make_work, index, pool, threads):
    shared = []

    class Told(Lexical):
        def divided(self, work, depth, mask):
            shared.append(super().divided(work, depth, mask))
            return shared[-1]

    recall = Recall([Told(index)], lambda filters: None, depth=DEPTH, pool=pool, threads=threads)
    recall.preceded_by([Waits()])
    work = make_work()
    recall.start_early(work)
    recall.run(work)
    assert len(shared) == 1
    assert shared[0].ended
    assert len(work.candidates) == DEPTH


def test_what_cannot_be_begun_is_asked_for_in_its_turn(make_work, index, pool, threads):
    class Failing(Lexical):
        def divided(self, work, depth, mask):
            raise OSError("disk")

    recall = Recall([Failing(index)], lambda filters: None, depth=DEPTH, pool=pool, threads=threads)
    work = make_work()
    recall.prepare(work)
    assert not work.early
    recall.run(work)
    assert len(work.candidates) == DEPTH
