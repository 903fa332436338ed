from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe._core import fuse_found, fuse_scores, rrf

Normalize = Literal["minmax", "zscore", "none"]

ranked = st.lists(st.integers(0, 30), max_size=25)
ranked_lists = st.lists(ranked, max_size=5)
finite = st.floats(-1e6, 1e6, width=32)


def docs(values: list[int]) -> Any:
    return np.array(values, np.int32)


def firsts(values: list[int]) -> list[int]:
    """Places at which a document stands for the first time."""
    return [place for place, doc in enumerate(values) if doc not in values[:place]]


def order_of(lists: list[list[int]]) -> list[int]:
    """Documents by first list, then by place: what breaks ties."""
    return list(dict.fromkeys(doc for one in lists for doc in one))


def assert_best_first(
    result: tuple[Any, Any], expected: dict[int, float], order: list[int], limit: int, tolerance: float
) -> None:
    """Scores are right to rounding; the order is exactly that of the scores returned, ties as promised."""
    got_docs, got_scores = result
    assert got_docs.dtype == np.int32
    assert got_scores.dtype == np.float32
    kept = len(expected) if limit == 0 else min(limit, len(expected))
    assert len(got_docs) == len(got_scores) == kept
    for doc, score in zip(got_docs.tolist(), got_scores.tolist(), strict=True):
        assert score == pytest.approx(expected[doc], rel=1e-6, abs=tolerance)
    place = {doc: i for i, doc in enumerate(order)}
    keys = [(-score, place[doc]) for doc, score in zip(got_docs.tolist(), got_scores.tolist(), strict=True)]
    assert keys == sorted(keys)
    if 0 < kept < len(expected):
        worst = got_scores[-1]
        left_out = set(expected) - set(got_docs.tolist())
        assert all(expected[doc] <= worst + abs(worst) * 1e-6 + tolerance for doc in left_out)


@settings(max_examples=150, deadline=None)
@given(ranked_lists, st.floats(0, 100), st.integers(0, 40), st.data())
def test_rrf_equals_the_formula(lists: list[list[int]], k: float, limit: int, data: st.DataObject) -> None:
    weights = data.draw(st.none() | st.lists(st.floats(0, 10), min_size=len(lists), max_size=len(lists)))
    expected: dict[int, float] = dict.fromkeys(order_of(lists), 0.0)
    for number, one in enumerate(lists):
        for place in firsts(one):
            expected[one[place]] += (1.0 if weights is None else weights[number]) / (k + place + 1)
    result = rrf([docs(one) for one in lists], weights=weights, k=k, limit=limit)
    assert_best_first(result, expected, order_of(lists), limit, 1e-12)


def test_rrf_by_hand() -> None:
    got_docs, got_scores = rrf([docs([7, 8, 9]), docs([9, 7])])
    assert got_docs.tolist() == [7, 9, 8]
    assert got_scores.tolist() == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62], rel=1e-6)


def test_ties_go_to_the_first_list_then_to_the_place() -> None:
    assert rrf([docs([5, 1]), docs([1, 5])])[0].tolist() == [5, 1]
    assert rrf([docs([4]), docs([2]), docs([9])])[0].tolist() == [4, 2, 9]
    # The same three ranks in another order: sums that differ in the last bit of a double are still ties.
    ranks = {1: (3, 7, 1), 2: (7, 1, 3), 3: (1, 3, 7)}
    lists = []
    for number in range(3):
        one = list(range(100 * number + 10, 100 * number + 18))
        for doc, places in ranks.items():
            one[places[number]] = doc
        lists.append(docs(one))
    best = rrf(lists)[0][:3].tolist()
    assert best == [doc for doc in lists[0].tolist() if doc in ranks]


@pytest.mark.parametrize("call", [rrf, fuse_scores])
def test_nothing_to_fuse(call: Any) -> None:
    for lists in ([], [docs([])] if call is rrf else [(docs([]), np.array([], np.float32))]):
        got_docs, got_scores = call(lists)
        assert (got_docs.shape, got_docs.dtype) == ((0,), np.int32)
        assert (got_scores.shape, got_scores.dtype) == ((0,), np.float32)


def normalized(scores: list[float], normalize: Normalize) -> tuple[list[float], float]:
    """Scores of one list, and what a document elsewhere gets from it."""
    values = np.array(scores, np.float64)
    if len(values) == 0 or normalize == "none":
        return values.tolist(), 0.0
    equal = values.min() == values.max()
    if normalize == "minmax":
        spread = values.max() - values.min()
        return (np.ones_like(values) if equal else (values - values.min()) / spread).tolist(), 0.0
    standard = np.zeros_like(values) if equal else (values - values.mean()) / values.std()
    return standard.tolist(), float(standard.min())


@settings(max_examples=150, deadline=None)
@given(ranked_lists, st.sampled_from(["minmax", "zscore", "none"]), st.integers(0, 40), st.data())
def test_fuse_scores_equals_the_formula(
    lists: list[list[int]], normalize: Normalize, limit: int, data: st.DataObject
) -> None:
    weights = data.draw(st.none() | st.lists(st.floats(0, 10), min_size=len(lists), max_size=len(lists)))
    scores = [data.draw(st.lists(finite, min_size=len(one), max_size=len(one))) for one in lists]
    expected: dict[int, float] = dict.fromkeys(order_of(lists), 0.0)
    size = 1.0
    for number, one in enumerate(lists):
        kept = firsts(one)
        values, elsewhere = normalized([scores[number][place] for place in kept], normalize)
        found = {one[place]: value for place, value in zip(kept, values, strict=True)}
        for doc in expected:
            term = (1.0 if weights is None else weights[number]) * found.get(doc, elsewhere)
            expected[doc] += term
            size = max(size, abs(term))
    pairs = [(docs(one), np.array(values, np.float32)) for one, values in zip(lists, scores, strict=True)]
    result = fuse_scores(pairs, weights=weights, normalize=normalize, limit=limit)
    # A near-constant list has a deviation of few significant bits.
    assert_best_first(result, expected, order_of(lists), limit, size * 1e-6)


def test_fuse_scores_by_hand() -> None:
    lexical = (docs([1, 2, 3]), np.array([10, 6, 2], np.float32))
    dense = (docs([3, 4]), np.array([0.9, 0.9], np.float32))
    got_docs, got_scores = fuse_scores([lexical, dense], weights=[1.0, 0.5])
    assert got_docs.tolist() == [1, 2, 3, 4]
    assert got_scores.tolist() == [1.0, 0.5, 0.5, 0.5]
    got_docs, got_scores = fuse_scores([lexical], normalize="zscore", limit=2)
    assert got_docs.tolist() == [1, 2]
    assert got_scores.tolist() == pytest.approx([math.sqrt(1.5), 0.0])
    got_docs, got_scores = fuse_scores([lexical, dense], normalize="none", limit=1)
    assert (got_docs.tolist(), got_scores.tolist()) == ([1], [10.0])


@pytest.mark.parametrize(
    ("lists", "options", "error", "message"),
    [
        ([[1, -1]], {}, ValueError, "list 0 has document -1 at place 1"),
        ([[1], [2]], {"weights": [1.0]}, ValueError, "1 weights for 2 lists"),
        ([[1]], {"weights": []}, ValueError, "0 weights for 1 lists"),
        ([[1]], {"weights": [-1.0]}, ValueError, "weight 0 is -1"),
        ([[1]], {"weights": [math.nan]}, ValueError, "weight 0 is nan"),
        ([[1]], {"weights": [math.inf]}, ValueError, "weight 0 is inf"),
        ([[1]], {"limit": -1}, ValueError, "limit is -1; pass 0 to keep all"),
    ],
)
def test_refused_by_both(
    lists: list[list[int]], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rrf([docs(one) for one in lists], **options)
    with pytest.raises(error, match=message):
        fuse_scores([(docs(one), np.ones(len(one), np.float32)) for one in lists], **options)


def test_refused_by_rrf() -> None:
    for k in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="k is"):
            rrf([docs([1])], k=k)
    with pytest.raises(TypeError, match=r"lists\[1\] has dtype int64, not int32"):
        rrf([docs([1]), np.array([1])])
    with pytest.raises(TypeError, match=r"lists\[0\] is of type int"):
        rrf([1])  # type: ignore[list-item]


def test_refused_by_fuse_scores() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        for normalize in ("minmax", "zscore", "none"):
            scores = np.array([1.0, bad], np.float32)
            with pytest.raises(ValueError, match=r"list 0 has score -?(nan|inf) for document 4"):
                fuse_scores([(docs([3, 4]), scores)], normalize=normalize)
    with pytest.raises(ValueError, match="list 0 has 1 documents and 2 scores"):
        fuse_scores([(docs([3]), np.ones(2, np.float32))])
    with pytest.raises(ValueError, match="normalize is 'max'; it must be 'minmax', 'zscore' or 'none'"):
        fuse_scores([], normalize="max")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"lists\[0\]\[1\] has dtype float64, not float32"):
        fuse_scores([(docs([3]), np.ones(1))])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"lists\[0\] is no pair"):
        fuse_scores([docs([1, 2, 3])])
    huge = np.array([3e38], np.float32)
    with pytest.raises(ValueError, match="outside of float32"):
        fuse_scores([(docs([3]), huge)], weights=[10.0], normalize="none")


def spread(all_docs: Any, one: Any, scores: Any) -> Any:
    """The scores of one list laid out along all documents; a document's first place counts."""
    place_of = {doc: place for place, doc in enumerate(all_docs.tolist())}
    column = np.full(len(all_docs), np.nan, np.float32)
    for doc, score in zip(one.tolist()[::-1], scores.tolist()[::-1], strict=True):
        column[place_of[doc]] = score
    return column


@settings(max_examples=150, deadline=None)
@given(ranked_lists, st.sampled_from(["rrf", "minmax", "zscore", "none"]), st.data())
def test_columns_lie_beside_the_same_fusion(lists: list[list[int]], method: Any, data: st.DataObject) -> None:
    weights = data.draw(st.none() | st.lists(st.floats(0, 10), min_size=len(lists), max_size=len(lists)))
    pairs = [
        (docs(one), np.array(data.draw(st.lists(finite, min_size=len(one), max_size=len(one))), np.float32))
        for one in lists
    ]
    if method == "rrf":
        expected = rrf([one for one, _ in pairs], weights=weights, k=7.0)
    else:
        expected = fuse_scores(pairs, weights=weights, normalize=method)
    found = {f"list {place}": pair for place, pair in enumerate(pairs)}
    by_name = {} if weights is None else dict(zip(found, weights, strict=True))
    got_docs, columns = fuse_found(found, by_name, method, 7.0, "fused")
    np.testing.assert_array_equal(got_docs, expected[0])
    np.testing.assert_array_equal(columns["fused"], expected[1])
    assert list(columns) == ["fused", *found]
    for name, (one, scores) in found.items():
        assert columns[name].dtype == np.float32
        np.testing.assert_array_equal(columns[name], spread(got_docs, one, scores))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 400), min_size=1, max_size=3), st.floats(0, 100))
def test_long_lists_are_fused_bit_for_bit_as_by_numpy(seed: int, lengths: list[int], k: float) -> None:
    rng = np.random.default_rng(seed)
    lists = [rng.permutation(600)[:length].astype(np.int32) * 4096 for length in lengths]
    weights = rng.random(len(lists)) * 2
    numbered = np.array(list(dict.fromkeys(np.concatenate(lists).tolist())), np.int32)
    number_of = {doc: number for number, doc in enumerate(numbered.tolist())}
    sums = np.zeros(len(numbered))
    for one, weight in zip(lists, weights, strict=True):
        numbers = [number_of[doc] for doc in one.tolist()]
        sums[numbers] += weight * (1.0 / (k + np.arange(1, len(one) + 1)))
    scores = sums.astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    found = {str(place): (one, one.astype(np.float32)) for place, one in enumerate(lists)}
    by_name = {str(place): float(weight) for place, weight in enumerate(weights)}
    got_docs, columns = fuse_found(found, by_name, "rrf", k, "fused")
    np.testing.assert_array_equal(got_docs, numbered[order])
    np.testing.assert_array_equal(columns["fused"], scores[order])
    for name, (one, kept) in found.items():
        np.testing.assert_array_equal(columns[name], spread(got_docs, one, kept))


def test_a_list_named_as_the_fused_scores_keeps_its_own() -> None:
    _, columns = fuse_found({"fused": (docs([4]), np.array([9], np.float32))}, {}, "rrf", 60.0, "fused")
    assert {name: column.tolist() for name, column in columns.items()} == {"fused": [9.0]}


def test_columns_are_refused_as_lists_are() -> None:
    one, scores = docs([1, 2]), np.ones(2, np.float32)
    found = {"a": (one, scores)}
    with pytest.raises(ValueError, match="1 scores"):
        fuse_found({"a": (one, scores[:1])}, {}, "rrf", 60.0, "fused")
    with pytest.raises(ValueError, match="'maximum'"):
        fuse_found(found, {}, "maximum", 60.0, "fused")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k is -1"):
        fuse_found(found, {}, "rrf", -1.0, "fused")
    with pytest.raises(ValueError, match="weight 0 is -2"):
        fuse_found(found, {"a": -2.0}, "rrf", 60.0, "fused")
    with pytest.raises(TypeError, match="must be real number"):
        fuse_found(found, {"a": "2"}, "rrf", 60.0, "fused")  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="finite"):
        fuse_found({"a": (one, scores * np.float32("nan"))}, {}, "minmax", 60.0, "fused")
    with pytest.raises(TypeError, match=r"found\['a'\] is no pair"):
        fuse_found({"a": one}, {}, "rrf", 60.0, "fused")
    with pytest.raises(TypeError, match=r"found\['a'\]\[1\] has dtype float64, not float32"):
        fuse_found({"a": (one, np.ones(2))}, {}, "rrf", 60.0, "fused")  # type: ignore[dict-item]
