"""What is done with the candidates of one query, against the same in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from searchpipe import _core
from searchpipe.candidates import Candidates

LENGTHS = st.integers(0, 60)
anything = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf])
finite = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -0.0, 1.0])


def column(elements: st.SearchStrategy[float] = anything, dtype: Any = np.float32) -> Any:
    return arrays.arrays(dtype, LENGTHS, elements=elements)


def same(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@given(column(), st.integers(1, 3))
def test_finite_is_as_numpy_says(values: Any, step: int) -> None:
    assert _core.all_finite(values[::step]) == bool(np.isfinite(values[::step]).all())
    assert _core.all_finite(values.astype(np.float64)) == bool(np.isfinite(values).all())
    assert _core.all_finite(values[:, None]) == bool(np.isfinite(values).all())


@given(column())
def test_the_best_come_first_and_ties_stay(scores: Any) -> None:
    same(_core.best_first(scores), np.argsort(-scores, kind="stable").astype(np.int32))


MANY = st.sampled_from([0, 1, 63, 64, 65, 500, 3000])
SEEDS = st.integers(0, 2**32 - 1)


def spreads(rng: np.random.Generator, n: int) -> list[Any]:
    """Scores as they may lie: spread, equal, in groups, one far off, close together, of any bits."""
    close = np.float32(0.5) + np.arange(n, dtype=np.float32) * np.float32(6e-8)
    far = rng.permutation(close)
    far[: n and 1] = 1e30
    bits = rng.integers(0, 2**32, n, np.uint32).view(np.float32)
    groups = rng.integers(0, 5, n).astype(np.float32) * np.float32(0.1)
    plain = rng.random(n, np.float32)
    return [plain, -plain, plain * 0, groups, rng.permutation(close), far, far[::-1].copy(), bits]


@settings(max_examples=30, deadline=None)
@given(MANY, SEEDS)
def test_many_scores_are_ordered_too(n: int, seed: int) -> None:
    for scores in spreads(np.random.default_rng(seed), n):
        same(_core.best_first(scores), np.argsort(-scores, kind="stable").astype(np.int32))


def test_more_scores_than_16_bits_count_are_ordered_too() -> None:
    for scores in spreads(np.random.default_rng(1), 70_000):
        same(_core.best_first(scores), np.argsort(-scores, kind="stable").astype(np.int32))


@settings(max_examples=30, deadline=None)
@given(MANY, SEEDS)
def test_ordering_candidates_is_sorting_and_taking(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    docs = rng.permutation(2 * n)[:n].astype(np.int32)
    for values in spreads(rng, n):
        candidates = Candidates.of(docs, {"fused": rng.random(n, np.float32)})
        candidates.carry("brand", docs * 2)
        made = candidates.ordered_by("mine", values)
        if not np.isfinite(values).all():
            assert made is None
            continue
        order = np.argsort(-values, kind="stable")
        assert made is not None
        same(made.docs, docs[order])
        assert list(made.scores) == ["fused", "mine"]
        same(made.scores["fused"], candidates.scores["fused"][order])
        same(made.scores["mine"], values[order])
        same(made.beside()["brand"], docs[order] * 2)
        assert list(candidates.scores) == ["fused"]


@given(column(), st.data(), st.integers(0, 80))
def test_ranked_goes_by_score_then_by_document(scores: Any, data: st.DataObject, limit: int) -> None:
    numbers = st.integers(-1, 40) | st.sampled_from([-(2**63), 2**40])
    ids = data.draw(arrays.arrays(np.int64, len(scores), elements=numbers))
    kept = (ids >= 0) & (ids < 30)
    order = np.lexsort((ids[kept], -scores[kept]))[:limit]
    docs, best = _core.ranked(ids, scores, limit=limit, count=30)
    same(docs, ids[kept][order].astype(np.int32))
    same(best, scores[kept][order])


def scaled(values: Any) -> Any:
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values), np.float32)
    low, high = values[known].min(), values[known].max()
    if high <= low:
        return known.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(known, (np.where(known, values, low) - low) / (high - low), 0.0).astype(np.float32)


@given(column() | column(st.floats(), np.float64))
def test_scaling_is_bit_for_bit_that_of_numpy(values: Any) -> None:
    same(_core.scale_to_unit(values), scaled(values))


@given(column(), st.integers(0, 30), st.floats(0, 1), st.sampled_from([0.1, 1.5, 3.0]))
def test_blending_is_bit_for_bit_that_of_numpy(
    logits: Any, behind: int, weight: float, temperature: float
) -> None:
    scored = np.isfinite(logits)
    if not scored.any():
        return
    n, m = len(logits) + behind, len(logits)
    with np.errstate(over="ignore"):
        odds = np.exp(-np.clip(logits / np.float32(temperature), -30.0, 30.0))
    prior = (1.0 - weight) * np.clip(1.0 - np.arange(m, dtype=np.float32) / 60, 0.0, 1.0)
    blended = np.full(n, np.inf, np.float32)
    blended[:m][scored] = (weight * (1.0 / (1.0 + odds)) + prior)[scored]
    tail = blended.min() * (1.0 - np.arange(1, n + 1, dtype=np.float32) / (n + 1))
    blended = np.where(np.isinf(blended), tail, blended)
    column, found, order = _core.blend_opinion(logits, odds, prior, weight=weight, count=n)
    same(column, np.concatenate([logits, np.full(behind, np.nan, np.float32)]))
    same(found, blended)
    same(order, np.argsort(-blended, kind="stable").astype(np.int32))


@given(
    st.lists(st.integers(0, 40), max_size=12),
    st.lists(st.lists(st.integers(0, 40), max_size=50), max_size=5),
)
def test_places_are_those_of_the_first_appearance(docs: list[int], orders: list[list[int]]) -> None:
    found = _core.places_in(np.array(docs, np.int32), [np.array(order, np.int32) for order in orders])
    assert found == [[order.index(doc) + 1 if doc in order else 0 for doc in docs] for order in orders]


@given(st.integers(0, 40), st.integers(0, 4), st.data())
def test_rows_are_taken_as_by_numpy(n: int, columns: int, data: st.DataObject) -> None:
    docs = np.random.default_rng(n).permutation(n).astype(np.int32)
    scores = {str(i): data.draw(arrays.arrays(np.float32, n, elements=anything)) for i in range(columns)}
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=n) if n else st.just([])), np.int32)
    first = np.array(list(dict.fromkeys(rows.tolist())), np.int32)
    left = np.setdiff1d(np.arange(n), first)
    for given_rows, rest, order in (
        (rows, False, rows),
        (first, True, np.concatenate([first, left]).astype(np.int32)),
    ):
        taken, found, beside = _core.take(docs, scores, None, given_rows, rest)
        same(taken, docs[order])
        assert list(found) == list(scores)
        for name, value in scores.items():
            same(found[name], value[order])
        assert beside is None


def test_columns_of_another_type_are_taken_too() -> None:
    docs = np.arange(3, dtype=np.int32)
    beside: Any = {"name": np.array(["a", "b", "c"])}
    rows = np.array([2, 0], np.int32)
    assert _core.take(docs, beside, None, rows)[1]["name"].tolist() == ["c", "a"]
    for rest, expected in ((False, ["c", "a"]), (True, ["c", "a", "b"])):
        _, scores, found = _core.take(docs, {}, beside, rows, rest)
        assert scores == {}
        assert found is not None
        assert found["name"].tolist() == expected
    strided: Any = {"every other": np.arange(6, dtype=np.float32)[::2]}
    assert _core.take(docs[::-1], strided, None, rows)[1]["every other"].tolist() == [4.0, 0.0]


def test_what_cannot_be_is_refused() -> None:
    docs, scores = np.arange(3, dtype=np.int32), np.ones(3, np.float32)
    for rows in ([3], [-1]):
        with pytest.raises(IndexError, match="outside"):
            _core.take(docs, {"a": scores}, None, np.array(rows, np.int32))
        with pytest.raises(IndexError, match="outside"):
            _core.take(docs, {"a": scores}, None, np.array(rows, np.int32), rest=True)
    with pytest.raises(ValueError, match="twice"):
        _core.take(docs, {"a": scores}, None, np.array([1, 1], np.int32), rest=True)
    with pytest.raises(ValueError, match=r"scores\['a'\] has 2 values for 3 candidates"):
        _core.take(docs, {"a": scores[:2]}, None, docs)
    with pytest.raises(ValueError, match=r"beside\['a'\] has 2 dimensions"):
        _core.take(docs, {}, {"a": scores[:, None]}, docs)
    with pytest.raises(TypeError, match="scores is no dict"):
        _core.take(docs, [scores], None, docs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="beside is neither None nor a dict"):
        _core.take(docs, {}, [scores], docs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 values for 3 candidates"):
        _core.order_by(docs, {}, None, "mine", scores[:2])
    with pytest.raises(TypeError, match="values has dtype float64"):
        _core.order_by(docs, {}, None, "mine", np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="parallel"):
        _core.ranked(docs.astype(np.int64), scores[:2], limit=1, count=3)
    with pytest.raises(ValueError, match="at least 0"):
        _core.ranked(docs.astype(np.int64), scores, limit=-1, count=3)
    with pytest.raises(ValueError, match="3 logits for 2"):
        _core.blend_opinion(scores, scores, scores, weight=0.5, count=2)
    with pytest.raises(ValueError, match="parallel"):
        _core.blend_opinion(scores, scores[:2], scores, weight=0.5, count=3)
    with pytest.raises(TypeError, match="float32"):
        _core.best_first(docs)  # type: ignore[arg-type]


def test_what_is_carried_follows_its_documents() -> None:
    docs = np.array([7, 5, 9, 2], np.int32)
    candidates = Candidates.of(docs, {"fused": np.arange(4, dtype=np.float32)})
    assert candidates.beside() == {}
    candidates.carry("brand", docs * 10)
    candidates.carry("name", np.array([f"P{d}" for d in docs]))
    for taken in (
        candidates.take(np.array([2, 0], np.int32)),
        candidates.take(np.array([2, 0], np.int32), rest=True),
        candidates.take(docs > 4).take(np.array([1, 0])),
    ):
        beside = taken.beside()
        assert beside["brand"].tolist() == [10 * d for d in taken.docs.tolist()]
        assert beside["name"].tolist() == [f"P{d}" for d in taken.docs.tolist()]
        assert set(taken.scores) == {"fused"}
    candidates.docs = docs[::-1].copy()
    assert candidates.beside() == {}  # it was for others
    assert candidates.take(np.array([0], np.int32)).beside() == {}
    candidates.carry("brand", candidates.docs)
    assert set(candidates.beside()) == {"brand"}


@given(logits=column(), temperature=st.floats(0.01, 100))
def test_odds_are_those_of_numpy(logits: np.ndarray, temperature: float) -> None:
    with np.errstate(all="ignore"):
        exponents = -np.minimum(np.maximum(logits / np.float32(temperature), -30.0), 30.0)
    odds = _core.odds_against(logits, temperature=temperature)
    assert odds.dtype == np.float32
    np.testing.assert_allclose(odds, np.exp(exponents.astype(np.float64)), rtol=2e-7)


@given(data=st.data(), count=st.integers(1, 300), weight=st.floats(0, 1, width=32))
def test_reordering_by_an_opinion_is_blending_and_taking(
    data: st.DataObject, count: int, weight: float
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scored = data.draw(st.integers(1, count))
    docs = rng.permutation(count).astype(np.int32)
    scores: Any = {"fused": rng.random(count, np.float32), "name": np.array([f"P{d}" for d in docs])}
    beside = {"brand": docs * 2}
    logits = rng.standard_normal(scored).astype(np.float32)
    if data.draw(st.booleans()):
        logits[1:][rng.random(scored - 1) < 0.3] = np.nan
    temperature = data.draw(st.floats(0.5, 5))
    odds = _core.odds_against(logits, temperature=temperature)
    prior = rng.random(count, np.float32) * data.draw(st.sampled_from([0, 1, -1]))
    opinion, blended, order = _core.blend_opinion(
        logits, odds, prior[:scored].copy(), weight=weight, count=count
    )
    same(order, np.argsort(-blended, kind="stable").astype(np.int32))
    expected = _core.take(docs, {**scores, "score": opinion, "blend": blended}, beside, order)
    found = _core.reorder_by_opinion(docs, scores, beside, "score", logits, temperature, prior, weight)
    np.testing.assert_array_equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one is not None
        assert other is not None
        assert list(one) == list(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@given(data=st.data(), count=st.integers(0, 60))
def test_features_stand_side_by_side(data: st.DataObject, count: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    docs = rng.integers(0, 200, count).astype(np.int32)
    table, places = rng.random(200, np.float32), rng.random(count + 3).astype(np.float32)
    narrow, wide = rng.standard_normal(count).astype(np.float32), rng.standard_normal(count)
    parts: Any = [("by document", table), None, ("by place", places), ("scaled", narrow), ("scaled", wide)]
    found = _core.feature_matrix(docs, parts)
    assert (found.shape, found.dtype) == ((count, 5), np.float32)
    expected = [table[docs], np.zeros(count), places[:count], _core.scale_to_unit(narrow)]
    expected.append(_core.scale_to_unit(wide))
    for place, values in enumerate(expected):
        np.testing.assert_array_equal(found[:, place], values)
    weights = rng.standard_normal(5).astype(np.float32)
    sums = np.zeros(count, np.float32)
    for place, weight in enumerate(weights):
        sums += found[:, place] * weight
    same(_core.weigh_features(docs, parts, weights), sums)
    same(_core.weigh_features(docs, [], weights[:0]), np.zeros(count, np.float32))


def test_features_that_cannot_be_are_refused() -> None:
    docs, values = np.array([0, 5], np.int32), np.ones(3, np.float32)
    with pytest.raises(IndexError, match=r"document 5 is outside of 0..3"):
        _core.feature_matrix(docs, [("by document", values)])
    with pytest.raises(ValueError, match="parallel"):
        _core.feature_matrix(docs, [("scaled", values)])
    with pytest.raises(ValueError, match="must be 'scaled'"):
        _core.feature_matrix(docs, [("by place", values[:1])])
    with pytest.raises(ValueError, match="must be 'scaled'"):
        _core.feature_matrix(docs, [("other", values)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="2 weights for 1 features"):
        _core.weigh_features(docs, [None], values[:2])
    with pytest.raises(TypeError, match="neither None nor a pair"):
        _core.weigh_features(docs, ["scaled"], values[:1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="prior has 1 values for 2 logits"):
        _core.reorder_by_opinion(docs, {}, None, "score", values[:2], 1.0, values[:1], 0.5)
    in_order = np.array([9, 4, 7], np.int64)
    scores = np.array([2.0, 1.0, 1.0], np.float32)
    assert _core.ranked(in_order, scores, limit=3, count=10)[0].tolist() == [9, 4, 7]
    assert _core.ranked(in_order[::-1].copy(), scores[::-1].copy(), limit=3, count=10)[0].tolist() == [
        9,
        4,
        7,
    ]
