"""What MMR, DPP and quotas mean, in float64 and without any cleverness.

Rounding decides between near-equal candidates, so a selection is not compared with one made by the
reference: every place is checked against the best that was possible after the places before it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from searchpipe._core import Quota, Selection

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Rule = tuple[NDArray[np.int32], int, int]
Values = Callable[[list[int]], tuple[Float64, Float64]]

LEAST_RESIDUAL = 1e-4


def unit(vectors: Float32) -> Float64:
    """Rows of length 1; all zeros where there is no direction."""
    wide = np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, 0).astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)


def mmr_values(relevance: Float32, vectors: Float32, trade_off: float, normalize: str) -> Values:
    """Value of each candidate after the picks given, between these two (the same but for rounding)."""
    r = relevance.astype(np.float64)
    if normalize == "minmax":
        r = (r - r.min()) / np.ptp(r) if np.ptp(r) > 0 else np.zeros_like(r)
    similar = np.maximum(unit(vectors) @ unit(vectors).T, 0)

    def values(order: list[int]) -> tuple[Float64, Float64]:
        nearest = similar[:, order].max(axis=1) if order else np.zeros(len(r))
        value = trade_off * r - (1 - trade_off) * nearest
        return value - 1e-5, value + 1e-5

    return values


def dpp_values(relevance: Float32, vectors: Float32, trade_off: float) -> Values:
    """Value of each candidate after the picks given, between these two.

    A residual is the difference of numbers near 1, and its rounding is magnified by every pivot that is
    short: near the floor its logarithm is uncertain. How much, single precision tells: the same factor in it
    is off by so much, and another order of the sums by several times that.
    """
    r = relevance.astype(np.float64)
    z = (r - r.mean()) / r.std() if np.ptp(r) > 0 else np.zeros_like(r)
    rows = unit(vectors)
    aimless = ~rows.any(axis=1)

    def values(order: list[int]) -> tuple[Float64, Float64]:
        rest, rounding = rows.copy(), 1e-6
        single = np.ones(len(rows), np.float32)
        columns: list[Float32] = []
        for pick in order:
            square = float((rest[pick] ** 2).sum())
            if abs(square - LEAST_RESIDUAL) < rounding:
                return np.full(len(z), -np.inf), np.full(len(z), np.inf)
            if square > LEAST_RESIDUAL:
                axis = rest[pick] / np.sqrt(square)
                rest -= np.outer(rest @ axis, axis)
                column = (rows @ rows[pick]).astype(np.float32)
                for before in columns:
                    column -= before * before[pick]
                columns.append(column / np.sqrt(np.maximum(single[pick], np.float32(LEAST_RESIDUAL))))
                single -= columns[-1] ** 2
                error = np.abs(single - (rest**2).sum(axis=1))[~aimless].max()
                rounding = max(rounding + 1e-6 / np.sqrt(square), 10 * float(error))
        residual = np.where(aimless, 1.0, (rest**2).sum(axis=1))
        low, high = (
            trade_off * z + (1 - trade_off) * np.log(np.maximum(residual + sign * rounding, LEAST_RESIDUAL))
            for sign in (-1, 1)
        )
        return low - 1e-5, high + 1e-5

    return values


def excess(order: list[int], candidate: int, rule: Rule) -> int:
    groups, limit, window = rule
    before = order if window == 0 else order[len(order) - min(len(order), window - 1) :]
    same = sum(groups[other] == groups[candidate] for other in before)
    return 0 if groups[candidate] < 0 else max(0, same + 1 - limit)


def check(selection: Selection, values: Values, n: int, k: int, rules: list[Rule]) -> None:
    """Assert that every place holds a best candidate among those that break the quotas least."""
    order = selection.order.tolist()
    assert len(order) == min(k, n)
    assert len(set(order)) == len(order)
    for place, pick in enumerate(order):
        before = order[:place]
        low, high = values(before)
        left = [i for i in range(n) if i not in before]
        cost = {i: sum(excess(before, i, rule) for rule in rules) for i in left}
        least = min(cost.values())
        assert cost[pick] == least
        assert bool(selection.relaxed[place]) == (least > 0)
        assert low[pick] <= selection.gains[place] <= high[pick]
        assert high[pick] >= max(low[i] for i in left if cost[i] == least)


def quotas_of(rules: list[Rule]) -> list[Quota]:
    return [Quota(groups, limit=limit, window=window) for groups, limit, window in rules]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Float32, Float32, int, float, list[Rule]]:
    """Relevance, vectors (some zero, huge, tiny, broken or twice), k, trade_off, quotas."""
    n, dim = draw(st.integers(1, 90)), draw(st.sampled_from([1, 2, 3, 8, 19, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.standard_normal((n, dim))
    kind = draw(st.sampled_from(["random", "clustered", "duplicates", "mixed"]))
    if kind == "clustered":
        vectors = rng.standard_normal((5, dim))[rng.integers(0, 5, n)] + 0.1 * vectors
    elif kind == "duplicates":
        vectors = vectors[rng.integers(0, max(1, n // 4), n)]
    elif kind == "mixed":
        vectors *= 10.0 ** rng.integers(-30, 30, (n, 1))
        vectors[rng.random(n) < 0.1] = 0
        vectors[rng.random(n) < 0.1, 0] = np.nan
        vectors[rng.random(n) < 0.1, -1] = np.inf
    scale = draw(st.sampled_from([0.0, 1.0, 20.0]))
    relevance = (scale * rng.standard_normal(n)).astype(np.float32)
    rules = [
        (rng.integers(-1, 5, n).astype(np.int32), draw(st.integers(1, 3)), draw(st.integers(0, 8)))
        for _ in range(draw(st.integers(0, 2)))
    ]
    k = draw(st.integers(0, n + 3))
    trade_off = draw(st.sampled_from([0.0, 0.1, 0.5, 0.7, 0.95, 1.0]))
    return relevance, vectors.astype(np.float32), k, trade_off, rules
