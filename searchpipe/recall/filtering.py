"""How a filtered search is begun: a pure choice by how much the filter leaves."""

from __future__ import annotations

import math
from typing import Literal

from searchpipe.recall.rule import MAX_PROBES, default_probes

Way = Literal["selector", "overfetch", "exact"]

_SELECTOR_SHARE = 0.05
"""A graph walk or list scan that skips more than 19 of 20 vectors finds too few; comparing all is surer."""

_EXACT_SHARE = 0.1
"""Comparing a tenth of the vectors on the device is as quick as a search of lists, and exact."""

_LISTS_MARGIN = 2.0
"""A cluster ends: what is allowed beyond it is spread over more lists than its share alone asks for."""

_SLACK = 1.25
_EXTRA = 16


def fetch_size(k: int, count: int, allowed: int) -> int:
    """Results to ask of an index that knows no filter, so that ``k`` of them are probably allowed.

    As if the filter had nothing to do with the query: k over the allowed share, and some more.
    """
    if allowed <= 0:
        return 0
    return min(count, int(k * count / allowed * _SLACK) + _EXTRA)


def filtered_probes(probes: int, lists: int, count: int, allowed: int) -> int:
    """Lists that a filtered query reads.

    What is allowed lies as much farther apart as there is less of it. Where a query without a filter
    finds its neighbours in a list or two, the next nearest are in many others, so that there
    never are fewer than the rule reads untuned.

    Args:
        probes: lists that a query without a filter reads.
        lists: all of them; 0 for an index without lists.
        count: vectors in the index.
        allowed: vectors that the filter leaves, at least 1.
    """
    if not lists:
        return 0
    if allowed >= count:
        return probes
    scaled = math.ceil(_LISTS_MARGIN * probes * count / allowed)
    return min(lists, MAX_PROBES, max(scaled, default_probes(lists)))


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
