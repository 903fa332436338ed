"""Every kind of GPU index gives exact scores, honours filters, and finds the true neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from searchpipe.catalog.exact import exact_search
from searchpipe.errors import EngineError, QueryError
from searchpipe.recall.gpu_index import GpuIndex
from searchpipe.recall.lookup import Lookup
from searchpipe.recall.rule import KINDS, choose_index
from searchpipe.recall.tune import recall_of, tune_probes

GIB = 1 << 30
CASES = [("flat", None), ("ivf-flat", "float32"), ("ivf-flat", "float16"), ("ivf-pq", None),
         ("cagra", "float32")]  # fmt: skip


class HostExact:
    """Stands in for the device's matrix."""

    def __init__(self, vectors):
        self.vectors = vectors
        self.calls = 0

    def search(self, query, k, mask):
        self.calls += 1
        return exact_search(self.vectors, query, k, mask)[0].astype(np.int64)


def make(faiss_gpu, vectors, kind, codes=None, **options):
    lists = 32 if "ivf" in kind else 0
    plan = choose_index(*vectors.shape, GIB, kind=kind, codes=codes, lists=lists, probes=lists)
    return GpuIndex(plan, vectors, faiss=faiss_gpu, **options)


def answer(index, vector, k, mask=None):
    lookup = Lookup(vector, k, mask)
    index.check(lookup)
    return index.finish(lookup, index.search_batch([lookup])[0])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(str(part) for part in case if part))
def index(request, faiss_gpu, vectors):
    made = make(faiss_gpu, vectors, *request.param)
    yield made
    made.close()


def test_what_is_found_has_exact_scores_in_order(index, vectors, queries):
    for query in queries[:8]:
        docs, scores = answer(index, query, 20)
        best, _ = exact_search(vectors, query, 20)
        assert docs.dtype == np.int32
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, vectors[docs] @ query, rtol=0, atol=2e-6)
        assert np.all(np.diff(scores) <= 0)
        assert len(np.intersect1d(docs, best)) >= 19


@pytest.mark.parametrize("share", [0.9, 0.3, 0.02, 0.002])
def test_a_filter_lets_nothing_else_through_and_loses_nothing(index, vectors, queries, share):
    mask = np.random.default_rng(3).random(len(vectors)) < share
    for query in queries[:4]:
        docs, scores = answer(index, query, 30, mask)
        best, _ = exact_search(vectors, query, 30, mask)
        assert mask[docs].all()
        assert len(docs) == len(best) == min(30, mask.sum())
        assert len(np.intersect1d(docs, best)) >= 0.95 * len(best)
        np.testing.assert_allclose(scores, vectors[docs] @ query, rtol=0, atol=2e-6)


def test_a_filter_against_the_query_still_gives_k(index, vectors, queries):
    # Only the worst half may be found: over-fetching by the allowed share finds none of them.
    query = queries[0]
    worst = np.argsort(vectors @ query)[:2000]
    mask = np.zeros(len(vectors), bool)
    mask[worst] = True
    docs, _ = answer(index, query, 25, mask)
    best, _ = exact_search(vectors, query, 25, mask)
    assert len(docs) == 25
    assert mask[docs].all()
    if index.plan.codes != "pq":  # four bytes a vector tell those at the edge of the filter apart by chance
        assert len(np.intersect1d(docs, best)) >= 24


def test_a_filter_that_allows_nothing_gives_nothing(index, vectors, queries):
    docs, scores = answer(index, queries[0], 5, np.zeros(len(vectors), bool))
    assert len(docs) == len(scores) == 0


def test_a_batch_gives_what_lone_searches_give(index, queries):
    lookups = [Lookup(query, 5 + n) for n, query in enumerate(queries)]
    together = [
        index.finish(one, found) for one, found in zip(lookups, index.search_batch(lookups), strict=True)
    ]
    for lookup, (docs, scores) in zip(lookups, together, strict=True):
        alone, alone_scores = answer(index, lookup.vector, lookup.k)
        np.testing.assert_array_equal(docs, alone)
        np.testing.assert_allclose(scores, alone_scores, rtol=0, atol=2e-6)


def test_a_filter_makes_a_query_read_more_lists(faiss_gpu):
    rng = np.random.default_rng(5)  # without clusters, neighbours are spread over many lists
    vectors = rng.standard_normal((3000, 32)).astype(np.float32)
    index = make(faiss_gpu, vectors, "ivf-flat", "float32")
    index.probes = 10
    mask = np.arange(3000) % 5 == 0
    hits = 0
    for query in rng.standard_normal((20, 32)).astype(np.float32):
        docs, _ = answer(index, query, 10, mask)
        hits += len(np.intersect1d(docs, exact_search(vectors, query, 10, mask)[0]))
    assert hits == 200
    assert index.probes == 10


def test_recall_under_a_filter_survives_tuning_to_few_lists(faiss_gpu, vectors, queries):
    index = make(faiss_gpu, vectors, "ivf-flat", "float32")
    index.probes = 1
    mask = np.arange(len(vectors)) % 2 == 0
    hits = 0
    for query in queries:
        docs, _ = answer(index, query, 100, mask)  # more than half a cluster of 100 holds
        hits += len(np.intersect1d(docs, exact_search(vectors, query, 100, mask)[0]))
    assert hits >= 0.95 * 100 * len(queries)


def test_rare_documents_are_compared_on_the_device_where_it_holds_the_vectors(faiss_gpu, vectors, queries):
    exact = HostExact(vectors)
    index = make(faiss_gpu, vectors, "ivf-flat", exact=exact)
    mask = np.zeros(len(vectors), bool)
    mask[::100] = True
    docs, _ = answer(index, queries[0], 35, mask)
    np.testing.assert_array_equal(docs, exact_search(vectors, queries[0], 35, mask)[0])
    assert exact.calls == 1
    answer(index, queries[0], 35, np.ones(len(vectors), bool))
    assert exact.calls == 1


@pytest.mark.parametrize("dim_lists", [(32, 31), (32, 33)])
def test_lists_of_a_cpu_index_are_taken_if_they_fit_the_plan(faiss_gpu, vectors, queries, dim_lists):
    centres = vectors[: dim_lists[1]]
    index = make(faiss_gpu, vectors, "ivf-flat", centroids=centres)  # of another number: learned anew
    assert len(answer(index, queries[0], 10)[0]) == 10


def test_given_centres_are_not_learned_again(faiss_gpu, vectors, queries):
    index = make(faiss_gpu, vectors, "ivf-flat", "float32", centroids=vectors[:32])
    quantizer = index._kept[-1]
    found = np.empty((1, 32), np.float32)
    if hasattr(quantizer, "index"):
        found = quantizer.index.reconstruct_n(0, 32)
    else:
        found = quantizer.reconstruct_n(0, 32)
    np.testing.assert_array_equal(found, vectors[:32])
    assert len(answer(index, queries[0], 10)[0]) == 10


def test_the_stream_and_bounded_memory_are_given_to_faiss(faiss_gpu, vectors):
    if faiss_gpu.__name__ == "faiss":
        pytest.skip("the real resources do not tell what they were told")
    index = make(faiss_gpu, vectors, "flat", stream=77, temp_bytes=12345)
    calls = index._resources.calls
    assert ("temp", 12345) in calls
    assert ("stream", 0, ("stream", 77)) in calls


def test_failures_are_engine_errors(faiss_gpu, vectors, queries):
    if faiss_gpu.__name__ == "faiss":
        pytest.skip("a real CUDA error would end this process's use of the GPU")
    index = make(faiss_gpu, vectors, "flat")
    index._index.fail_next = 1
    with pytest.raises(EngineError, match="CUDA error 700"):
        answer(index, queries[0], 5)
    assert len(answer(index, queries[0], 5)[0]) == 5


def test_float16_graphs_take_float16_queries(faiss_gpu, vectors, queries):
    if faiss_gpu.__name__ != "faiss":
        pytest.skip("needs FAISS for GPUs: the fake has no float16 graph")
    index = make(faiss_gpu, vectors, "cagra", "float16")
    docs, _ = answer(index, queries[0], 20)
    assert len(np.intersect1d(docs, exact_search(vectors, queries[0], 20)[0])) >= 19


@pytest.mark.parametrize(
    "lookup",
    [
        Lookup(np.zeros(31, np.float32), 1),
        Lookup(np.zeros((1, 32), np.float32), 1),
        Lookup(np.zeros(32, np.float64), 1),
        Lookup(np.full(32, np.nan, np.float32), 1),
        Lookup(np.zeros(32, np.float32), 1, np.ones(5, bool)),
    ],
)
def test_what_cannot_be_searched_is_refused(index, lookup):
    with pytest.raises(QueryError):
        index.check(lookup)


def test_k_above_the_count_gives_all(faiss_gpu, vectors):
    index = make(faiss_gpu, vectors[:50], "flat")
    assert len(answer(index, vectors[0], 200)[0]) == 50


def test_the_plan_and_the_vectors_must_agree(faiss_gpu, vectors):
    plan = choose_index(10, 32, GIB)
    with pytest.raises(EngineError, match=r"10 x 32 and the vectors are \(4000, 32\)"):
        GpuIndex(plan, vectors, faiss=faiss_gpu)


def test_tuning_takes_the_fewest_lists_that_reach_the_recall(faiss_gpu):
    rng = np.random.default_rng(5)  # without clusters, neighbours are spread over many lists
    vectors = rng.standard_normal((3000, 32)).astype(np.float32)
    queries = rng.standard_normal((16, 32)).astype(np.float32)
    index = make(faiss_gpu, vectors, "ivf-flat", "float32")
    best = np.stack([exact_search(vectors, query, 10)[0] for query in queries]).astype(np.int64)
    tuned = tune_probes(index, queries, best, wanted=0.9)
    assert 0.9 <= tuned.recall <= 1.0
    assert 1 < tuned.probes == index.probes
    index.probes = tuned.probes // 2
    assert recall_of(index.search_many(queries, 10)[0], best) < 0.9
    with pytest.raises(EngineError):
        index.probes = 33


def test_every_kind_is_covered():
    assert {kind for kind, _ in CASES} == set(KINDS)
