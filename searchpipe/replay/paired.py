"""Paired differences between two sides, with bootstrap intervals."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from searchpipe.errors import MissingDependencyError
from searchpipe.evaluate.significance import bootstrap_interval, paired_p

Values = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000
# Numbers drawn at once while resampling, so that memory stays small with many queries.
_BLOCK = 2_000_000


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure of A and B over the same queries; ``low`` to ``high`` is the 95% interval of B - A.

    ``relative`` is (B - A) / A with its interval, where A is above 0. ``p`` is that of the paired
    randomisation test of the mean, null for quantiles and without scipy.
    """

    queries: int
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    p: float | None = None
    better: int = 0
    worse: int = 0
    equal: int = 0


def mean_difference(a: Values, b: Values, *, higher_is_better: bool, seed: int = 0) -> Difference:
    """Of means, over the queries where both have a value; float64 ``(n,)`` each, NaN for none."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if not a.size:
        return Difference(0)
    gap = b - a
    low, high = bootstrap_interval(gap, level=LEVEL, resamples=RESAMPLES, seed=seed)
    mean = float(a.mean())
    scale = mean if mean > 0 else math.nan
    up, down = int(np.sum(gap > 1e-9)), int(np.sum(gap < -1e-9))
    better, worse = (up, down) if higher_is_better else (down, up)
    return Difference(
        int(a.size),
        mean,
        float(b.mean()),
        float(gap.mean()),
        low,
        high,
        known(float(gap.mean()) / scale),
        known(low / scale),
        known(high / scale),
        _p(gap, seed),
        better,
        worse,
        int(a.size) - better - worse,
    )


def quantile_difference(a: Values, b: Values, q: float, *, seed: int = 0) -> Difference:
    """Of the ``q``-quantiles; queries are resampled in pairs (Efron 1979)."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    n = int(a.size)
    if not n:
        return Difference(0)
    of_a, of_b = float(np.quantile(a, q)), float(np.quantile(b, q))
    rng = np.random.default_rng(seed)
    gaps, shares = np.empty(RESAMPLES), np.empty(RESAMPLES)
    block = max(1, _BLOCK // n)
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        drawn = rng.integers(n, size=(rows, n))
        some_a, some_b = np.quantile(a[drawn], q, axis=1), np.quantile(b[drawn], q, axis=1)
        gaps[start : start + rows] = some_b - some_a
        shares[start : start + rows] = some_b / np.where(some_a > 0, some_a, np.nan) - 1
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(gaps, ends)
    share_low, share_high = np.quantile(shares, ends) if np.isfinite(shares).all() else (math.nan, math.nan)
    return Difference(
        n,
        of_a,
        of_b,
        of_b - of_a,
        float(low),
        float(high),
        of_b / of_a - 1 if of_a > 0 else None,
        known(float(share_low)),
        known(float(share_high)),
        None,
        int(np.sum(b < a)),
        int(np.sum(b > a)),
        int(np.sum(b == a)),
    )


def known(value: float) -> float | None:
    """None for NaN, which JSON has no word for."""
    return None if math.isnan(value) else value


def _p(gap: Values, seed: int) -> float | None:
    try:
        return paired_p(gap, resamples=RESAMPLES, seed=seed)
    except MissingDependencyError:
        return None
