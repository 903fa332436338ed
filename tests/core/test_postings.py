"""The postings index against a plain BM25 in float64, and what its classes refuse."""

from __future__ import annotations

import errno
import math
import os
import resource
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from searchpipe._core import PostingsIndex, PostingsWriter
from searchpipe.arrays import Bool
from tests.core.postings_file import write

Document = list[list[str]]

# Shares of documents are rounded to 1/65535, sums to float32.
_ROUNDED = 0.5 / 65535


def bm25(
    documents: list[Document], terms: list[str], boosts: list[float]
) -> tuple[NDArray[np.float64], Bool, float]:
    """Return scores, which documents match, and how far rounding may take a score."""
    scores = np.zeros(len(documents))
    matches = np.zeros(len(documents), np.bool_)
    tolerance = 1e-6
    for field, boost in enumerate(boosts):
        if boost <= 0:
            continue
        lengths = np.array([len(document[field]) for document in documents], np.float64)
        for term in terms:
            tf = np.array([document[field].count(term) for document in documents], np.float64)
            df = np.count_nonzero(tf)
            if df == 0:
                continue
            weight = boost * math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            norm = 1.2 * (1 - 0.75 + 0.75 * lengths / lengths.mean())
            scores += weight * tf / (tf + norm)
            matches |= tf > 0
            tolerance += weight * (2 * _ROUNDED + 1e-6)  # a share that rounds to 0 is kept as 1
    return scores, matches, tolerance


WORDS = st.sampled_from(["a", "b", "bb", "c", "ü", "茶", "", "a b", "\x00"])
FIELD = st.lists(WORDS, max_size=8)
BOOSTS = st.sampled_from([-1.0, 0.0, 0.25, 1.0, 50.0])


@st.composite
def searches(draw: st.DrawFn) -> dict[str, Any]:
    fields = draw(st.integers(1, 3))
    documents = draw(st.lists(st.lists(FIELD, min_size=fields, max_size=fields), max_size=40))
    # Copies, so that there are ties.
    documents = documents * draw(st.integers(1, 4))
    return {
        "documents": documents,
        "terms": draw(st.lists(WORDS | st.just("nowhere"), unique=True, max_size=6)),
        "boosts": draw(
            st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0, 50.0]), min_size=fields, max_size=fields)
        ),
        "k": draw(st.integers(1, 60)),
        "mask": draw(st.none() | st.lists(st.booleans(), min_size=len(documents), max_size=len(documents))),
        "memory_bytes": draw(st.sampled_from([0, 500, 1 << 20])),
    }


@given(searches())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_best_k_are_those_of_plain_bm25(tmp_path: Path, search: dict[str, Any]) -> None:
    documents, terms, boosts, k = (search[name] for name in ("documents", "terms", "boosts", "k"))
    index = write(tmp_path / "index", documents, len(boosts), search["memory_bytes"])
    mask = None if search["mask"] is None else np.array(search["mask"], np.bool_)
    docs, scores = index.search(terms, boosts=boosts, k=k, mask=mask)
    assert (docs.dtype, scores.dtype) == (np.int32, np.float32)
    expected, matches, tolerance = bm25(documents, terms, boosts)
    allowed = matches if mask is None else matches & mask
    assert len(docs) == len(set(docs.tolist())) == min(k, np.count_nonzero(allowed))
    assert allowed[docs].all()
    np.testing.assert_allclose(scores, expected[docs], atol=tolerance, rtol=1e-5)
    # Best first, equal scores by ordinal.
    np.testing.assert_array_equal(np.lexsort((docs, -scores)), np.arange(len(docs)))
    # Nobody who was left out is better.
    rest = np.setdiff1d(np.flatnonzero(allowed), docs)
    if len(rest):
        assert expected[rest].max() <= scores[-1] * (1 + 1e-5) + tolerance
    # A score depends neither on k nor on the mask, so ties and all the best k are the first of everything.
    everything, all_scores = index.search(terms, boosts=boosts, k=10**9)
    keep = np.ones(len(everything), np.bool_) if mask is None else mask[everything]
    np.testing.assert_array_equal(docs, everything[keep][:k])
    np.testing.assert_array_equal(scores, all_scores[keep][:k])


@pytest.mark.parametrize("mask_share", [None, 0.5, 0.01, 0.0002])
def test_pruning_changes_nothing(large: PostingsIndex, mask_share: float | None) -> None:
    """Searches for few, which skip much, give the first of a search for all, which can skip nothing."""
    rng = np.random.default_rng(12)
    mask = None if mask_share is None else rng.random(len(large)) < mask_share
    names = [f"w{word}" for word in range(11)]
    queries = [["w0", "w5", "w6"], ["w7", "w0", "x"], ["w8", "w9"], names, ["w6"], ["w0", "w1", "x"]]
    queries += [["w10", "w6"], ["w0", "w1", "w10"]]
    queries += [rng.choice([*names, "x"], size, replace=False).tolist() for size in rng.integers(1, 7, 20)]
    for terms in queries:
        boosts = [1.0, 0.5]
        docs, scores = large.search(terms, boosts=boosts, k=len(large))
        np.testing.assert_array_equal(np.lexsort((docs, -scores)), np.arange(len(docs)))
        if mask is not None:
            docs, scores = docs[mask[docs]], scores[mask[docs]]
        for k in (1, 10, 300, 5000):
            best, best_scores = large.search(terms, boosts=boosts, k=k, mask=mask)
            np.testing.assert_array_equal(best, docs[:k])
            np.testing.assert_array_equal(best_scores, scores[:k])


def test_memory_does_not_change_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    documents = [[[f"w{word}" for word in rng.zipf(1.3, 12) % 500], ["t"]] for _ in range(3000)]
    write(tmp_path / "many_parts", documents, 2, memory_bytes=20_000)
    write(tmp_path / "one_part", documents, 2)
    assert (tmp_path / "many_parts").read_bytes() == (tmp_path / "one_part").read_bytes()


def test_many_threads_get_what_one_gets(large: PostingsIndex) -> None:
    queries = [[f"w{a}", f"w{b}", "x"] for a in range(5) for b in range(5, 10)]
    expected = [large.search(terms, boosts=[1.0, 0.1], k=50) for terms in queries]
    wrong: list[list[str]] = []

    def work() -> None:
        for terms, (docs, scores) in zip(queries, expected, strict=True):
            found = large.search(terms, boosts=[1.0, 0.1], k=50)
            if not (np.array_equal(found[0], docs) and np.array_equal(found[1], scores)):
                wrong.append(terms)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_index_of_nothing(tmp_path: Path) -> None:
    index = write(tmp_path / "none", [], 2)
    assert (len(index), index.fields, index.terms, index.postings) == (0, 2, 0, 0)
    assert len(index.search(["a"], boosts=[1.0, 1.0], k=5)[0]) == 0
    assert len(index.search([], boosts=[1.0, 1.0], k=5, mask=np.empty(0, np.bool_))[0]) == 0
    index = write(tmp_path / "empty", [[[], []], [[], ["b"]]], 2)
    assert index.search(["b"], boosts=[1.0, 1.0], k=5)[0].tolist() == [1]
    assert len(index.search(["b"], boosts=[1.0, 1.0], k=0)[0]) == 0
    assert len(index.search(["b"], boosts=[1.0, 1.0], k=-3)[0]) == 0


def test_long_documents(tmp_path: Path) -> None:
    documents = [[["same"] * 70_000 + ["rare"]], [["same", "other"]], [["other"] * 3]]
    index = write(tmp_path / "index", documents, 1)
    for terms in (["same"], ["rare"], ["other", "rare"]):
        docs, scores = index.search(terms, boosts=[1.0], k=3)
        expected, matches, tolerance = bm25(documents, terms, [1.0])
        assert sorted(docs.tolist()) == np.flatnonzero(matches).tolist()
        np.testing.assert_allclose(scores, expected[docs], atol=tolerance, rtol=1e-5)


def test_terms_of_any_bytes(tmp_path: Path) -> None:
    terms = ["", "\x00", "a", "a\x00", "\ud800", "茶", "x" * 5000]
    index = write(tmp_path / "index", [[[term]] for term in terms] + [[[b"\xff\xfe"]]], 1)
    for place, term in enumerate(terms):
        assert index.search([term], boosts=[1.0], k=9)[0].tolist() == [place]
    assert index.search(["茶".encode()], boosts=[1.0], k=9)[0].tolist() == [5]
    assert index.search([b"\xff\xfe"], boosts=[1.0], k=9)[0].tolist() == [7]
    assert index.terms == 8


def test_many_documents_at_once_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    documents = [
        [
            [f"w{word}" for word in rng.zipf(1.3, rng.integers(0, 9)) % 500],
            [b"raw", "\ud800", "茶"][: row % 4],
        ]
        for row in range(3000)
    ]
    write(tmp_path / "one", documents, 2)
    with PostingsWriter(tmp_path / "many", fields=2) as writer:
        writer.append_many(documents[:2000])
        writer.append_many([])
        writer.append_many(documents[2000:])
        assert len(writer) == 3000
    assert (tmp_path / "many").read_bytes() == (tmp_path / "one").read_bytes()
    with PostingsWriter(tmp_path / "bad", fields=2) as writer:
        with pytest.raises(ValueError, match="document 1 has 1 fields, the index 2"):
            writer.append_many([[["a"], []], [["a"]], [["a"], []]])
        assert len(writer) == 1
        with pytest.raises(TypeError, match="pass str or bytes"):
            writer.append_many([[["a"], []], [["a"], [7]]])  # type: ignore[arg-type]
        assert len(writer) == 1


def test_what_is_refused(tmp_path: Path) -> None:
    for fields in (0, 1025):
        with pytest.raises(ValueError, match=rf"{fields} fields.* 1 to 1024"):
            PostingsWriter(tmp_path / "index", fields=fields)
    with PostingsWriter(tmp_path / "index", fields=2) as writer:
        with pytest.raises(ValueError, match="document 0 has 1 fields, the index 2"):
            writer.append([["a"]])
        with pytest.raises(TypeError, match="term is of type int; pass str or bytes"):
            writer.append([["a"], [7]])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="no sequence of terms"):
            writer.append([["a"], 7])  # type: ignore[list-item]
        writer.append([["a"], ["b"]])
    writer.close()
    with pytest.raises(ValueError, match="is closed; open a new PostingsWriter"):
        writer.append([["a"], ["b"]])
    index = PostingsIndex(tmp_path / "index")
    assert len(index) == 1
    with pytest.raises(ValueError, match="3 boosts for 2 fields"):
        index.search(["a"], boosts=[1.0, 1.0, 1.0], k=1)
    for boost in (1e6, math.inf, math.nan):
        with pytest.raises(ValueError, match="below 1e6"):
            index.search(["a"], boosts=[1.0, boost], k=1)
    with pytest.raises(ValueError, match="mask has 2 entries, the index 1 documents"):
        index.search(["a"], boosts=[1.0, 1.0], k=1, mask=np.ones(2, np.bool_))
    with pytest.raises(TypeError, match="int64, not bool"):
        index.search(["a"], boosts=[1.0, 1.0], k=1, mask=np.ones(1, np.int64))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pass str or bytes"):
        index.search([3], boosts=[1.0, 1.0], k=1)  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError):
        PostingsIndex(tmp_path / "nothing")


def test_nothing_is_left_of_a_writer_that_was_given_up(tmp_path: Path) -> None:
    writer = PostingsWriter(tmp_path / "index", fields=1)
    writer.append([["a"]])
    writer.abandon()
    writer.abandon()
    with pytest.raises(ValueError, match="was abandoned"):
        writer.append([["a"]])
    with suppress(KeyError), PostingsWriter(tmp_path / "index", fields=1) as writer:
        writer.append([["a"]])
        raise KeyError
    assert not list(tmp_path.iterdir())
    write(tmp_path / "index", [[["a"]]], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def _append_words(writer: PostingsWriter, count: int) -> None:
    for number in range(count):
        writer.append([[f"word{number}"]])


def test_a_full_disk_is_an_oserror_and_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "index", [[["old"]]], 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    spilling = PostingsWriter(tmp_path / "index", fields=1, memory_bytes=1000)
    merging = PostingsWriter(tmp_path / "index", fields=1)
    _append_words(merging, 5000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(OSError, match="index") as appended:
            _append_words(spilling, 200_000)
        with pytest.raises(OSError, match="index") as closed:
            merging.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert appended.value.errno == closed.value.errno == errno.EFBIG
    with pytest.raises(ValueError, match="was abandoned"):
        merging.append([["a"]])
    assert os.listdir(tmp_path) == ["index"]
    assert PostingsIndex(tmp_path / "index").search(["old"], boosts=[1.0], k=1)[0].tolist() == [0]
