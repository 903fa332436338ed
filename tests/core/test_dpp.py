"""Greedy DPP against its definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from diversity_reference import LEAST_RESIDUAL, Float32, Rule, cases, check, dpp_values, quotas_of
from hypothesis import given, settings

from searchpipe._core import Quota, by_relevance, dpp


def sample(n: int = 300, dim: int = 64, seed: int = 0) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dim))
    vectors = centres[rng.integers(0, 20, n)] + 0.4 * rng.standard_normal((n, dim))
    return rng.standard_normal(n).astype(np.float32), vectors.astype(np.float32)


@given(cases())
@settings(max_examples=200, deadline=None)
def test_every_place_is_the_best_possible(case: tuple[Float32, Float32, int, float, list[Rule]]) -> None:
    relevance, vectors, k, trade_off, rules = case
    selection = dpp(relevance, vectors, k=k, trade_off=trade_off, quotas=quotas_of(rules))
    values = dpp_values(relevance, vectors, trade_off)
    check(selection, values, len(relevance), k, rules)


def test_gains_are_the_steps_of_the_log_determinant() -> None:
    relevance, vectors = sample()
    trade_off = 0.6
    selection = dpp(relevance, vectors, k=40, trade_off=trade_off)
    z = (relevance - relevance.mean()) / relevance.std()
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    q = np.exp(trade_off / (2 * (1 - trade_off)) * z)
    kernel = (q[:, None] * (rows @ rows.T) * q).astype(np.float64)
    steps = []
    for m in range(41):
        picked = selection.order[:m]
        steps.append(np.linalg.slogdet(kernel[np.ix_(picked, picked)])[1])
    np.testing.assert_allclose(selection.gains, (1 - trade_off) * np.diff(steps), atol=2e-4)


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9])
def test_agrees_with_pyversity(diversity: float) -> None:
    pyversity = pytest.importorskip("pyversity")
    relevance, vectors = sample()
    peer = pyversity.diversify(vectors, relevance, 40, strategy=pyversity.Strategy.DPP, diversity=diversity)
    exponent = 1 - diversity
    trade_off = 2 * exponent / (1 + 2 * exponent)
    ours = dpp(relevance, vectors, k=40, trade_off=trade_off)
    assert ours.order.tolist() == peer.indices.tolist()
    np.testing.assert_allclose(ours.gains / (1 - trade_off), np.log(peer.selection_scores), atol=1e-3)


def test_trade_off_1_is_the_order_of_relevance() -> None:
    relevance, vectors = sample()
    plain = by_relevance(relevance, k=300)
    assert dpp(relevance, vectors, k=300, trade_off=1).order.tolist() == plain.order.tolist()


def test_places_beyond_the_rank_go_by_relevance() -> None:
    rng = np.random.default_rng(1)
    # 3 directions, 60 candidates: after 3 picks nothing is new.
    vectors = np.repeat(np.eye(3, 5, dtype=np.float32), 20, axis=0) * rng.uniform(0.5, 2, (60, 1)).astype(
        np.float32
    )
    relevance = rng.random(60, np.float32)
    selection = dpp(relevance, vectors, k=60, trade_off=0.3)
    assert sorted(selection.order.tolist()) == list(range(60))
    assert len({int(i) // 20 for i in selection.order[:3]}) == 3
    rest = relevance[selection.order[3:]]
    assert (np.diff(rest) <= 0).all()
    z = (relevance - relevance.mean()) / relevance.std()
    np.testing.assert_allclose(
        selection.gains[3:], 0.3 * z[selection.order[3:]] + 0.7 * np.log(LEAST_RESIDUAL), atol=1e-4
    )


def test_identical_candidates_all_come_back() -> None:
    selection = dpp(np.ones(50, np.float32), np.ones((50, 16), np.float32), k=50)
    assert selection.order.tolist() == list(range(50))


def test_more_places_than_dimensions() -> None:
    relevance, vectors = sample(400, 8)
    selection = dpp(relevance, vectors, k=400, trade_off=0.2)
    assert sorted(selection.order.tolist()) == list(range(400))
    assert np.isfinite(selection.gains).all()


def test_quotas_hold_while_diversifying() -> None:
    relevance, vectors = sample()
    brands = np.random.default_rng(2).integers(0, 30, 300).astype(np.int32)
    sellers = np.random.default_rng(3).integers(0, 30, 300).astype(np.int32)
    selection = dpp(
        relevance,
        vectors,
        k=60,
        quotas=[Quota(brands, limit=2, window=10), Quota(sellers, limit=4, window=0)],
    )
    assert not selection.relaxed.any()
    placed = brands[selection.order]
    assert max(np.bincount(placed[start : start + 10]).max() for start in range(51)) <= 2
    assert np.bincount(sellers[selection.order]).max() <= 4


def test_constant_relevance_leaves_diversity_alone() -> None:
    _, vectors = sample()
    flat = dpp(np.full(300, 0.1, np.float32), vectors, k=20, trade_off=0.5)
    alone = dpp(np.zeros(300, np.float32), vectors, k=20, trade_off=0.0)
    assert flat.order.tolist() == alone.order.tolist()


def test_the_extremes_of_float32_do_not_overflow() -> None:
    relevance = np.array([-3.4e38, 3.4e38, 3.3e38, 0], np.float32)
    vectors = np.array([[3e38, 0], [3e38, 3e38], [1e-45, 0], [0, 1e-30]], np.float32)
    selection = dpp(relevance, vectors, k=4, trade_off=0.99)
    assert selection.order.tolist() == [1, 2, 3, 0]
    assert np.isfinite(selection.gains).all()


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"trade_off": -0.1}, ValueError, "trade_off is -0.1"),
        ({"k": -1}, ValueError, "k is -1"),
        ({"relevance": np.full(3, np.inf, np.float32)}, ValueError, r"relevance\[0\] is inf"),
        ({"vectors": np.ones((3, 2), np.float16)}, TypeError, "float16"),
        ({"vectors": np.ones((4, 2), np.float32)}, ValueError, "4 rows"),
    ],
)
def test_refuses(changes: dict[str, object], error: type[Exception], text: str) -> None:
    arguments: dict[str, object] = {
        "relevance": np.ones(3, np.float32),
        "vectors": np.ones((3, 2), np.float32),
        "k": 2,
    }
    with pytest.raises(error, match=text):
        dpp(**(arguments | changes))  # type: ignore[arg-type]


def test_nothing_in_nothing_out() -> None:
    assert len(dpp(np.empty(0, np.float32), np.empty((0, 4), np.float32), k=3)) == 0
    assert len(dpp(np.ones(2, np.float32), np.ones((2, 4), np.float32), k=0)) == 0
    assert dpp(np.array([1, 3, 2], np.float32), np.empty((3, 0), np.float32), k=3).order.tolist() == [1, 2, 0]
