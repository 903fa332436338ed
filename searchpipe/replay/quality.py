"""Ranking quality of one page against the labels or clicks of its log line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NDCG_AT = 10


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one page; NaN where a measure is not defined.

    Attributes:
        ndcg: nDCG@10 with the labels' gains.
        recall: share of the products with a gain above 0 that are on the page, whatever its length.
        rr: 1 / rank of the first clicked product, 0 if none is on the page.
    """

    ndcg: float = math.nan
    recall: float = math.nan
    rr: float = math.nan


def quality_of(ids: Sequence[str], labels: Mapping[str, float] | None, clicks: Sequence[str]) -> Quality:
    """Measures of a page of product ids, best first.

    nDCG@10 = DCG / ideal DCG with DCG = sum of gain / log2(rank + 1) over the first 10 (Järvelin
    and Kekäläinen 2002, linear gains as in trec_eval); products without a label gain 0.
    """
    ndcg = recall = rr = math.nan
    wanted = {product for product, gain in (labels or {}).items() if gain > 0}
    if labels and wanted:
        gained = sum(labels.get(id, 0.0) * _DISCOUNTS[place] for place, id in enumerate(ids[:NDCG_AT]))
        best = sorted(labels.values(), reverse=True)[:NDCG_AT]
        ndcg = gained / sum(gain * _DISCOUNTS[place] for place, gain in enumerate(best))
        recall = len(wanted.intersection(ids)) / len(wanted)
    if clicks:
        clicked = set(clicks)
        rr = next((1.0 / (place + 1) for place, id in enumerate(ids) if id in clicked), 0.0)
    return Quality(ndcg, recall, rr)


_DISCOUNTS = [1.0 / math.log2(place + 2) for place in range(NDCG_AT)]
