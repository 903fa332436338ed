"""Finds out how many lists a query must read for a wanted recall, on the device itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from searchpipe.arrays import Float32, Int64
from searchpipe.recall.gpu_index import GpuIndex
from searchpipe.recall.rule import MAX_PROBES


@dataclass(frozen=True, slots=True)
class Tuning:
    """The fewest ``probes`` tried that reached the wanted recall, and the ``recall`` that they gave."""

    probes: int
    recall: float


def recall_of(found: Int64, best: Int64) -> float:
    """Mean share of the rows of ``best`` (int64 ``(n, k)``) that the same rows of ``found`` hold."""
    hits = sum(len(np.intersect1d(row, right)) for row, right in zip(found, best, strict=True))
    return hits / best.size if best.size else 1.0


def tune_probes(index: GpuIndex, queries: Float32, best: Int64, *, wanted: float = 0.97) -> Tuning:
    """Set ``index.probes`` to the fewest, by doubling and then halving the gap, that reach ``wanted``.

    Call it before the index is shared: it searches.

    Args:
        index: with lists; others are left alone.
        queries: float32 ``(n, dim)``, like those to come.
        best: int64 ``(n, k)``, their true neighbours.
        wanted: recall at k, 0 to 1; if even the most probes do not reach it, they are taken.
    """

    def recall(probes: int) -> float:
        index.probes = probes
        return recall_of(index.search_many(queries, best.shape[1])[0], best)

    if not index.plan.lists:
        return Tuning(0, recall_of(index.search_many(queries, best.shape[1])[0], best))
    most = min(index.plan.lists, MAX_PROBES)
    low, high = 0, 1
    reached = recall(high)
    while reached < wanted and high < most:
        low, high = high, min(2 * high, most)
        reached = recall(high)
    if reached >= wanted:
        while high - low > max(1, high // 8):
            middle = (low + high) // 2
            if (at := recall(middle)) >= wanted:
                high, reached = middle, at
            else:
                low = middle
    index.probes = high
    return Tuning(high, reached)
