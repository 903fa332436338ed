"""How a filtered search is begun: a pure choice by how much the filter leaves."""

from __future__ import annotations

from typing import Literal

Way = Literal["selector", "overfetch", "exact"]

_SELECTOR_SHARE = 0.05
"""A graph walk or list scan that skips more than 19 of 20 vectors finds too few; comparing all is surer."""

_EXACT_SHARE = 0.1
"""Comparing a tenth of the vectors on the device is as quick as a search of lists, and exact."""

_SLACK = 1.25
_EXTRA = 16


def fetch_size(k: int, count: int, allowed: int) -> int:
    """Results to ask of an index that knows no filter, so that ``k`` of them are probably allowed.

    As if the filter had nothing to do with the query: k over the allowed share, and some more.
    """
    if allowed <= 0:
        return 0
    return min(count, int(k * count / allowed * _SLACK) + _EXTRA)


def choose_way(
    k: int, count: int, allowed: int, *, max_k: int, selects: bool, compares: bool = False
) -> tuple[Way, int]:
    """How to begin a search of ``k`` among ``allowed`` of ``count`` vectors, and how many results to ask for.

    Args:
        k: documents wanted.
        count: vectors in the index.
        allowed: vectors that the filter leaves.
        max_k: the most results that the index gives.
        selects: whether the index can skip what is not allowed while it searches.
        compares: whether the device can compare all that is allowed.
    """
    k = min(k, allowed)
    if compares and allowed <= _EXACT_SHARE * count:
        return "exact", k
    if selects and allowed >= _SELECTOR_SHARE * count and k + _EXTRA <= max_k:
        return "selector", min(k + _EXTRA, allowed)
    wanted = fetch_size(k, count, allowed)
    if wanted <= max_k:
        return "overfetch", wanted
    return "exact", k
