from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.catalog import IndexSettings
from searchpipe.catalog import dense as dense_module
from searchpipe.catalog.dense import DenseIndex
from searchpipe.catalog.dense_writer import DenseWriter
from searchpipe.catalog.exact import exact_search
from searchpipe.errors import CatalogError, QueryError

DIM = 16


def unit_vectors(count: int, seed: int = 0) -> Float32:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def index_of(folder: Path, vectors: Float32, **chosen: Any) -> DenseIndex:
    with ExitStack() as owner:
        writer = DenseWriter(folder / "dense", IndexSettings(**chosen), DIM, owner)
        writer.append(vectors[:7])
        writer.append(vectors[7:])
        return DenseIndex(folder / "dense", writer.close(), len(vectors))


def reference(vectors: Float32, query: Float32, k: int, mask: Bool | None) -> Int32:
    scores = np.where(mask, vectors @ query, -np.inf) if mask is not None else vectors @ query
    allowed = len(vectors) if mask is None else int(mask.sum())
    return np.argsort(-scores, kind="stable")[: min(k, allowed)].astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(4)), elements=st.integers(-3, 3).map(float)),
    st.integers(0, 50),
    st.data(),
)
def test_exact_search_equals_a_full_sort(vectors: Float32, k: int, data: st.DataObject) -> None:
    query = np.array([1, 2, -1, 0], np.float32)
    mask = data.draw(st.none() | hnp.arrays(np.bool_, len(vectors)))
    docs, scores = exact_search(vectors, query, k, mask)
    expected = reference(vectors, query, k, mask)
    np.testing.assert_array_equal(scores, (vectors @ query)[expected])
    # Equal scores at the end of the list may be those of other rows; all others are in order.
    certain = scores > scores[-1] if len(scores) else scores.astype(bool)
    np.testing.assert_array_equal(docs[certain], expected[certain])
    assert len(set(docs.tolist())) == len(docs)
    assert mask is None or mask[docs].all()


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("share", [None, 0.4, 0.1, 0.01, 0.0])
def test_every_kind_finds_the_allowed_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, share: float | None
) -> None:
    monkeypatch.setattr(dense_module, "_EXACT_LIMIT", 30)
    vectors = unit_vectors(1500)
    index = index_of(tmp_path, vectors, dense_index=kind, ivf_lists=10, ivf_probes=6, hnsw_search_effort=200)
    assert index.info.kind == kind
    mask = None if share is None else np.random.default_rng(1).random(1500) < share
    found = wanted = 0
    for query in unit_vectors(20, seed=2):
        docs, scores = index.search(query, 50, mask=mask)
        expected = reference(vectors, query, 50, mask)
        assert docs.dtype == np.int32
        assert scores.dtype == np.float32
        assert len(docs) == len(expected)
        assert mask is None or mask[docs].all()
        np.testing.assert_allclose(scores, vectors[docs] @ query, rtol=1e-5)
        assert (np.diff(scores) <= 0).all()
        found += len(set(docs.tolist()) & set(expected.tolist()))
        wanted += len(expected)
    assert found == wanted if kind == "flat" else found >= 0.8 * wanted


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_k_above_the_count_gives_all(tmp_path: Path, kind: str) -> None:
    vectors = unit_vectors(100)
    index = index_of(tmp_path, vectors, dense_index=kind)
    docs, _ = index.search(vectors[3], 10_000)
    assert sorted(docs.tolist()) == list(range(100))
    assert docs[0] == 3
    assert len(index.search(vectors[3], 0)[0]) == 0


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_a_faiss_index_of_all_vectors_can_be_had(tmp_path: Path, kind: str) -> None:
    vectors = unit_vectors(200)
    index = index_of(tmp_path, vectors, dense_index=kind).to_faiss()
    assert (index.ntotal, index.d) == (200, DIM)
    assert index.search(vectors[5:6], 1)[1][0, 0] == 5


@pytest.mark.parametrize(
    ("vector", "mask", "message"),
    [
        (np.zeros(3, np.float32), None, "shape"),
        (np.full(DIM, np.nan, np.float32), None, "NaN or infinity"),
        (np.full(DIM, np.inf, np.float32), None, "NaN or infinity"),
        (np.zeros(DIM, np.float32), np.ones(9, np.bool_), "9 entries"),
    ],
)
def test_bad_queries_are_refused(tmp_path: Path, vector: Float32, mask: Bool | None, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        index_of(tmp_path, unit_vectors(10)).search(vector, 3, mask=mask)


def test_vectors_that_are_not_finite_stop_the_build(tmp_path: Path) -> None:
    with ExitStack() as owner:
        writer = DenseWriter(tmp_path / "dense", IndexSettings(), DIM, owner)
        with pytest.raises(CatalogError, match="NaN or infinity"):
            writer.append(np.full((2, DIM), np.nan, np.float32))
        with pytest.raises(CatalogError, match="shape"):
            writer.append(np.zeros((2, DIM + 1), np.float32))


def test_the_kind_follows_the_count() -> None:
    chosen = IndexSettings(flat_below=100, ivf_from=1000)
    assert [chosen.dense_kind(count) for count in (99, 100, 999, 1000)] == ["flat", "hnsw", "hnsw", "ivf"]
    assert IndexSettings(dense_index="ivf").dense_kind(5) == "ivf"


def test_an_index_for_few_vectors_still_works(tmp_path: Path) -> None:
    vectors = unit_vectors(8)
    docs, _ = index_of(tmp_path, vectors, dense_index="ivf").search(vectors[2], 3)
    assert docs[0] == 2


def test_many_threads_get_what_one_gets(tmp_path: Path) -> None:
    vectors = unit_vectors(500)
    index = index_of(tmp_path, vectors, dense_index="hnsw")
    expected = [index.search(query, 10)[0].tolist() for query in vectors[:50]]
    wrong: list[int] = []

    def work() -> None:
        for row, query in enumerate(vectors[:50]):
            if index.search(query, 10)[0].tolist() != expected[row]:
                wrong.append(row)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
