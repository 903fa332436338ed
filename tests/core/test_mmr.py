"""MMR against its definition in NumPy."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from diversity_reference import Float32, Rule, cases, check, mmr_values, quotas_of
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe._core import Selection, by_relevance, dpp, mmr


def sample(n: int = 300, dim: int = 64, seed: int = 0) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dim))
    vectors = centres[rng.integers(0, 20, n)] + 0.4 * rng.standard_normal((n, dim))
    return rng.random(n, np.float32), vectors.astype(np.float32)


@given(cases(), st.sampled_from(["minmax", "none"]))
@settings(max_examples=150, deadline=None)
def test_every_place_is_the_best_possible(
    case: tuple[Float32, Float32, int, float, list[Rule]], normalize: str
) -> None:
    relevance, vectors, k, trade_off, rules = case
    selection = mmr(
        relevance, vectors, k=k, trade_off=trade_off, normalize=normalize, quotas=quotas_of(rules)
    )
    values = mmr_values(relevance, vectors, trade_off, normalize)
    check(selection, values, len(relevance), k, rules)


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9])
def test_agrees_with_pyversity(diversity: float) -> None:
    pyversity = pytest.importorskip("pyversity")
    relevance, vectors = sample()
    peer = pyversity.diversify(vectors, relevance, 50, strategy=pyversity.Strategy.MMR, diversity=diversity)
    ours = mmr(relevance, vectors, k=50, trade_off=1 - diversity, normalize="none")
    assert ours.order.tolist() == peer.indices.tolist()
    np.testing.assert_allclose(ours.gains, peer.selection_scores, atol=1e-5)


def test_trade_off_1_is_the_order_of_relevance() -> None:
    relevance, vectors = sample()
    plain = by_relevance(relevance, k=300)
    assert mmr(relevance, vectors, k=300, trade_off=1).order.tolist() == plain.order.tolist()


def test_a_duplicate_comes_after_what_is_new() -> None:
    vectors = np.array([[1, 0], [2, 0], [0, 1]], np.float32)
    relevance = np.array([1.0, 0.99, 0.5], np.float32)
    assert mmr(relevance, vectors, k=3, trade_off=0.5).order.tolist() == [0, 2, 1]


def test_minmax_makes_the_units_of_relevance_irrelevant() -> None:
    relevance, vectors = sample()
    logits = (relevance * 16 - 11).astype(np.float32)
    assert mmr(relevance, vectors, k=30).order.tolist() == mmr(logits, vectors, k=30).order.tolist()


def test_the_extremes_of_float32_do_not_overflow() -> None:
    relevance = np.array([-3.4e38, 3.4e38, 0], np.float32)
    vectors = np.array([[3e38, 3e38], [3e38, 3e38], [1e-38, -1e-38]], np.float32)
    selection = mmr(relevance, vectors, k=3, trade_off=0.5)
    assert selection.order.tolist() == [1, 2, 0]
    np.testing.assert_allclose(selection.gains, [0.5, 0.25, -0.5], atol=1e-6)


def test_equal_candidates_keep_their_order() -> None:
    selection = mmr(np.ones(100, np.float32), np.ones((100, 7), np.float32), k=100)
    assert selection.order.tolist() == list(range(100))


def test_vectors_without_dimensions_or_candidates() -> None:
    assert mmr(np.array([1, 3, 2], np.float32), np.empty((3, 0), np.float32), k=3).order.tolist() == [1, 2, 0]
    assert len(mmr(np.empty(0, np.float32), np.empty((0, 4), np.float32), k=3)) == 0


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"trade_off": 1.5}, ValueError, "trade_off is 1.5"),
        ({"trade_off": float("nan")}, ValueError, "trade_off is nan"),
        ({"k": -3}, ValueError, "k is -3"),
        ({"normalize": "max"}, ValueError, 'normalize is "max"'),
        ({"relevance": np.full(3, np.nan, np.float32)}, ValueError, r"relevance\[0\] is nan"),
        ({"relevance": np.ones(4, np.float32)}, ValueError, "3 rows, but relevance has 4"),
        ({"relevance": [1.0, 2.0, 3.0]}, TypeError, "type list"),
        ({"vectors": np.ones((3, 2))}, TypeError, "float64.*float32"),
        ({"vectors": np.ones(3, np.float32)}, ValueError, "1 dimensions, not 2"),
        ({"vectors": np.ones((2, 3), np.float32).T}, ValueError, "C-contiguous"),
        ({"vectors": np.ones((3, 2), ">f4")}, TypeError, ">f4"),
    ],
)
def test_refuses(changes: dict[str, object], error: type[Exception], text: str) -> None:
    arguments: dict[str, object] = {
        "relevance": np.ones(3, np.float32),
        "vectors": np.ones((3, 2), np.float32),
        "k": 2,
    }
    with pytest.raises(error, match=text):
        mmr(**(arguments | changes))  # type: ignore[arg-type]


def test_threads_get_the_same_answer() -> None:
    relevance, vectors = sample(1000)
    expected = mmr(relevance, vectors, k=20)
    found: list[Selection] = []
    threads = [
        threading.Thread(target=lambda: found.extend(mmr(relevance, vectors, k=20) for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all((one.order == expected.order).all() and (one.gains == expected.gains).all() for one in found)


def test_a_selection_owns_its_arrays() -> None:
    selection = mmr(*sample(5), k=3)
    order = selection.order
    assert repr(selection) == "Selection(3 places, 0 relaxed)"
    del selection
    assert len(order) == 3


@given(cases(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_rows_of_a_larger_matrix_are_read_in_place(
    case: tuple[Float32, Float32, int, float, list[Rule]], seed: int
) -> None:
    relevance, vectors, k, trade_off, rules = case
    rng = np.random.default_rng(seed)
    n = len(relevance)
    rows = rng.permutation(3 * n + 1)[:n].astype(np.int32)
    matrix = rng.standard_normal((3 * n + 1, vectors.shape[1])).astype(np.float32)
    matrix[rows] = vectors
    for select in (mmr, dpp):
        copied = select(relevance, vectors, k=k, trade_off=trade_off, quotas=quotas_of(rules))
        placed = select(relevance, matrix, k=k, trade_off=trade_off, quotas=quotas_of(rules), rows=rows)
        assert placed.order.tolist() == copied.order.tolist()
        np.testing.assert_array_equal(placed.gains, copied.gains)


@pytest.mark.parametrize("select", [mmr, dpp])
def test_rows_that_do_not_fit_are_refused(select: Callable[..., Selection]) -> None:
    relevance, vectors = sample(4)
    rows = np.arange(4, dtype=np.int32)
    for bad in (-1, 4):
        with pytest.raises(IndexError, match=f"row {bad} is outside of 0..4 vectors"):
            select(relevance, vectors, k=2, rows=np.array([0, 1, 2, bad], np.int32))
    with pytest.raises(ValueError, match="rows has 3 values, but relevance has 4"):
        select(relevance, vectors, k=2, rows=rows[:3])
    with pytest.raises(TypeError, match="rows has dtype int64"):
        select(relevance, vectors, k=2, rows=rows.astype(np.int64))
