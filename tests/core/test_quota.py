"""Quotas against a brute-force reading of their definition."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from searchpipe._core import Quota, by_relevance

Float32 = NDArray[np.float32]
Groups = NDArray[np.int32]
Rule = tuple[Groups, int, int]  # groups, limit, window


def excess(order: list[int], candidate: int, groups: Groups, limit: int, window: int) -> int:
    """By how many items the window that ends at the next place would exceed the limit."""
    before = order if window == 0 else order[len(order) - min(len(order), window - 1) :]
    if groups[candidate] < 0:
        return 0
    return max(0, 1 + sum(groups[other] == groups[candidate] for other in before) - limit)


def reference(
    relevance: NDArray[np.float32], k: int, quotas: list[tuple[Groups, int, int]]
) -> tuple[list[int], list[bool]]:
    left, order, relaxed = list(range(len(relevance))), [], []
    while left and len(order) < k:
        cost = {i: sum(excess(order, i, *quota) for quota in quotas) for i in left}
        least = min(cost.values())
        pick = min((i for i in left if cost[i] == least), key=lambda i: (-relevance[i], i))
        order.append(pick)
        relaxed.append(least > 0)
        left.remove(pick)
    return order, relaxed


def int32(values: list[int]) -> Groups:
    return np.array(values, np.int32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Float32, list[Rule], int]:
    n = draw(st.integers(0, 40))
    # Few distinct values, so that ties are common; group numbers both dense and far apart.
    relevance = np.array(draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)), np.float32)
    group = st.sampled_from([-1, 0, 1, 2, 5, 2_000_000_000])
    quotas = [
        (
            int32(draw(st.lists(group, min_size=n, max_size=n))),
            draw(st.integers(1, 4)),
            draw(st.integers(0, 12)),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    return relevance, quotas, draw(st.integers(0, 50))


@given(cases())
@settings(max_examples=300, deadline=None)
def test_agrees_with_brute_force(
    case: tuple[Float32, list[Rule], int],
) -> None:
    relevance, rules, k = case
    quotas = [Quota(groups, limit=limit, window=window) for groups, limit, window in rules]
    selection = by_relevance(relevance, k=k, quotas=quotas)
    order, relaxed = reference(relevance, k, rules)
    assert selection.order.tolist() == order
    assert selection.relaxed.tolist() == relaxed
    assert selection.gains.tolist() == relevance[order].tolist()


def test_every_window_holds_the_limit_when_nothing_was_relaxed() -> None:
    rng = np.random.default_rng(3)
    brands = rng.integers(0, 40, 500).astype(np.int32)
    selection = by_relevance(rng.random(500, np.float32), k=100, quotas=[Quota(brands, limit=2, window=10)])
    assert not selection.relaxed.any()
    placed = brands[selection.order]
    for start in range(len(placed) - 9):
        assert np.bincount(placed[start : start + 10]).max() <= 2


def test_one_brand_only_still_fills_the_page() -> None:
    selection = by_relevance(
        np.arange(20, dtype=np.float32), k=5, quotas=[Quota(np.zeros(20, np.int32), limit=2, window=10)]
    )
    assert selection.order.tolist() == [19, 18, 17, 16, 15]
    assert selection.relaxed.tolist() == [False, False, True, True, True]


def test_relaxing_spreads_what_it_must_repeat() -> None:
    brands = int32([0] * 4 + [1] * 4)
    selection = by_relevance(
        np.arange(8, 0, -1).astype(np.float32), k=8, quotas=[Quota(brands, limit=1, window=0)]
    )
    assert brands[selection.order].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert selection.relaxed.tolist() == [False, False] + [True] * 6


def test_candidates_without_a_group_are_never_held_back() -> None:
    selection = by_relevance(
        np.arange(5, 0, -1).astype(np.float32), k=5, quotas=[Quota(int32([-1] * 5), limit=1, window=0)]
    )
    assert selection.order.tolist() == [0, 1, 2, 3, 4]
    assert not selection.relaxed.any()


@pytest.mark.parametrize(
    ("groups", "limit", "window", "error", "text"),
    [
        (int32([0, -2]), 1, 0, ValueError, r"groups\[1\] is -2"),
        (int32([0]), 0, 0, ValueError, "limit is 0"),
        (int32([0]), 1, -1, ValueError, "window is -1"),
        (np.array([0]), 1, 0, TypeError, r"int64.*astype\(np\.int32\)"),
        ([0], 1, 0, TypeError, r"type list.*np\.asarray"),
        (np.zeros((2, 2), np.int32), 1, 0, ValueError, "2 dimensions"),
    ],
)
def test_refuses(groups: object, limit: int, window: int, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Quota(groups, limit=limit, window=window)  # type: ignore[arg-type]


def test_refuses_quotas_about_other_candidates() -> None:
    with pytest.raises(ValueError, match=r"quotas\[0\] has groups of 3 candidates, but 2"):
        by_relevance(np.ones(2, np.float32), k=1, quotas=[Quota(int32([0, 0, 0]), limit=1, window=0)])
    with pytest.raises(TypeError, match=r"quotas\[0\] is None"):
        by_relevance(np.ones(2, np.float32), k=1, quotas=[None])  # type: ignore[list-item]


def test_a_quota_copies_its_groups_and_describes_itself() -> None:
    groups = int32([0, 0, 1])
    quota = Quota(groups, limit=1, window=0)
    groups[:] = -1
    assert by_relevance(np.ones(3, np.float32), k=3, quotas=[quota]).relaxed.tolist() == [False, False, True]
    assert (len(quota), quota.limit, quota.window) == (3, 1, 0)
    assert repr(quota) == "Quota(3 candidates in 2 groups, limit=1, window=0)"


def test_one_quota_serves_many_threads() -> None:
    rng = np.random.default_rng(5)
    relevance = rng.random(2000, np.float32)
    quota = Quota(rng.integers(0, 9, 2000).astype(np.int32), limit=3, window=20)
    expected = by_relevance(relevance, k=200, quotas=[quota]).order.tolist()
    found: list[list[int]] = []
    threads = [
        threading.Thread(
            target=lambda: found.extend(
                by_relevance(relevance, k=200, quotas=[quota]).order.tolist() for _ in range(10)
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 40


@pytest.mark.parametrize(
    ("relevance", "k", "error", "text"),
    [
        (np.array([1, np.nan], np.float32), 1, ValueError, r"relevance\[1\] is nan"),
        (np.array([-np.inf], np.float32), 1, ValueError, r"relevance\[0\] is -inf"),
        (np.ones(2), 1, TypeError, "float64"),
        (np.ones(2, np.float32), -1, ValueError, "k is -1"),
    ],
)
def test_by_relevance_refuses(relevance: object, k: int, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        by_relevance(relevance, k=k)  # type: ignore[arg-type]


def test_by_relevance_of_nothing() -> None:
    selection = by_relevance(np.empty(0, np.float32), k=10)
    assert selection.order.dtype == np.int32
    assert selection.gains.dtype == np.float32
    assert selection.relaxed.dtype == np.bool_
    assert len(selection) == 0
    assert len(by_relevance(np.ones(3, np.float32), k=0)) == 0


def test_strided_relevance_and_groups_are_taken() -> None:
    relevance = np.arange(10, dtype=np.float32)[::-2]
    groups = np.zeros(10, np.int32)[::2]
    selection = by_relevance(relevance, k=2, quotas=[Quota(groups, limit=1, window=0)])
    assert selection.order.tolist() == [0, 1]
    assert selection.relaxed.tolist() == [False, True]
