"""Which shapes are prepared, and how rows are cut into them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe import _core
from searchpipe.errors import ConfigError
from searchpipe.runtime.buckets import choose_buckets

BUCKETS = st.lists(st.tuples(st.integers(1, 8), st.integers(4, 40)), min_size=1, max_size=6, unique=True)


def least_cost(
    lengths: list[int], buckets: list[tuple[int, int]], costs: list[tuple[float, float]], exact: bool
) -> float:
    """Try every way to cut, by recursion."""

    @cache
    def best(begin: int) -> float:
        if begin == len(lengths):
            return 0.0
        found = []
        for (rows, tokens), (fixed, per_token) in zip(buckets, costs, strict=True):
            if tokens >= lengths[begin]:
                taken = min(rows, len(lengths) - begin)
                area = taken * lengths[begin] if exact else 0
                found.append(fixed + per_token * area + best(begin + taken))
        return min(found)

    return best(0)


@given(BUCKETS, st.lists(st.integers(1, 40), max_size=20), st.booleans(), st.randoms(use_true_random=False))
def test_cuts_are_whole_fit_and_cost_the_least(
    buckets: list[tuple[int, int]], rows: list[int], exact: bool, random: np.random.Generator
) -> None:
    widest = max(tokens for _, tokens in buckets)
    lengths = sorted((min(row, widest) for row in rows), reverse=True)
    costs = [(random.uniform(0.1, 5.0), random.uniform(0.0, 0.1)) for _ in buckets]
    batches = _core.cut_into_batches(lengths, buckets, costs, exact_shape=exact)
    assert [row for begin, end, _, _ in batches for row in range(begin, end)] == list(range(len(lengths)))
    total = 0.0
    for begin, end, count, tokens in batches:
        assert count >= end - begin
        assert tokens >= lengths[begin]
        if exact:
            assert (count, tokens) == (end - begin, lengths[begin])
            total += min(
                fixed + per_token * count * tokens
                for (most, width), (fixed, per_token) in zip(buckets, costs, strict=True)
                if width >= tokens and most >= count
            )
        else:
            total += min(
                fixed for bucket, (fixed, _) in zip(buckets, costs, strict=True) if bucket == (count, tokens)
            )
    assert total == pytest.approx(least_cost(lengths, buckets, costs, exact), abs=1e-9) or exact
    assert total <= least_cost(lengths, buckets, costs, exact) + 1e-9


@given(BUCKETS, st.lists(st.integers(1, 40), max_size=40), st.sampled_from([0.0, 0.05, -0.3]))
def test_costs_of_a_launch_and_its_places_bound_nothing_too_much(
    buckets: list[tuple[int, int]], rows: list[int], launch: float
) -> None:
    # As measured on a GPU: most cuts can be left out. With launches below zero none can.
    widest = max(tokens for _, tokens in buckets)
    lengths = sorted((min(row, widest) for row in rows), reverse=True)
    costs = [(launch + 2e-3 * count * tokens, 0.0) for count, tokens in buckets]
    batches = _core.cut_into_batches(lengths, buckets, costs)
    of_bucket = {bucket: fixed for bucket, (fixed, _) in zip(buckets, costs, strict=True)}
    total = sum(of_bucket[count, tokens] for _, _, count, tokens in batches)
    assert total == pytest.approx(least_cost(lengths, buckets, costs, exact=False), abs=1e-9)


def test_of_plans_that_cost_the_same_the_first_bucket_is_taken() -> None:
    costs = [(1.0, 0.0)] * 3
    assert _core.cut_into_batches([8, 8], [(2, 8), (4, 8), (4, 16)], costs) == [(0, 2, 2, 8)]
    # A tie of one batch and two: the smaller bucket first.
    assert _core.cut_into_batches([8, 8], [(1, 8), (2, 8)], [(1.0, 0.0), (2.0, 0.0)]) == [
        (0, 1, 1, 8),
        (1, 2, 1, 8),
    ]


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 9 tokens fits no bucket"):
        _core.cut_into_batches([9], [(4, 8)], [(1.0, 0.0)])
    with pytest.raises(ValueError, match="longest first"):
        _core.cut_into_batches([3, 9], [(4, 16)], [(1.0, 0.0)])
    with pytest.raises(ValueError, match="2 costs for 1 buckets"):
        _core.cut_into_batches([3], [(4, 16)], [(1.0, 0.0)] * 2)


def test_buckets_follow_the_lengths() -> None:
    lengths = np.concatenate([np.full(900, 40), np.full(100, 117)]).astype(np.int32)
    buckets = choose_buckets(max_rows=64, max_tokens=128, lengths=lengths, widths=4)
    assert buckets == [(rows, tokens) for rows in (8, 16, 32, 64) for tokens in (40, 120, 128)]


def test_buckets_without_lengths_are_even() -> None:
    buckets = choose_buckets(max_rows=20, max_tokens=100, widths=2)
    assert buckets == [(8, 56), (8, 104), (16, 56), (16, 104), (20, 56), (20, 104)]
    assert choose_buckets(max_rows=1, max_tokens=1, widths=9) == [(1, 8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0}, "max_rows is 0"),
        ({"widths": 0}, "widths 0"),
        ({"max_tokens": 10, "lengths": np.array([11], np.int32)}, "11 tokens is longer"),
    ],
)
def test_impossible_buckets(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_buckets(**options)  # type: ignore[arg-type]
