"""Strata of traffic: how often a query is searched for, what it is about, how long it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from searchpipe.arrays import Int32

if TYPE_CHECKING:
    from searchpipe.catalog import Snapshot

HEAD_SHARE = 0.5
TORSO_SHARE = 0.8
"""Of all searches, counted from the most frequent query down: head to 50%, torso to 80%, the rest is tail."""

SHORT_TOKENS = 3
MEDIUM_TOKENS = 6
"""A short query has up to 3 tokens, a medium one up to 6."""

MIN_CATEGORY_SHARE = 0.02
"""Categories of fewer queries are one stratum together, ``other``."""

VOTERS = 20
"""Documents of a query's recall that vote for its category."""

TokenCount = Callable[[str], int]

# A CJK character is about one token of the usual vocabularies, elsewhere a word is.
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+")


def traffic_strata(
    counts: Sequence[int], weights: Sequence[float], shares: tuple[float, float] = (HEAD_SHARE, TORSO_SHARE)
) -> list[str]:
    """``head``, ``torso`` or ``tail`` of each query.

    Queries are laid out by falling count; equally frequent ones share a place, in the middle of
    the searches they make together, so that their order does not matter. A query that was seen
    once is tail wherever it lies.

    Args:
        counts: searches of each query.
        weights: how many queries each stands for.
        shares: ends of head and torso as shares of all searches.
    """
    searches = np.asarray(counts, np.float64) * np.asarray(weights, np.float64)
    total = float(searches.sum())
    levels, place = np.unique(-np.asarray(counts, np.int64), return_inverse=True)
    level_searches = np.bincount(place, weights=searches, minlength=len(levels))
    middles = (np.cumsum(level_searches) - level_searches / 2) / total if total else level_searches
    names = np.where(middles < shares[0], "head", np.where(middles < shares[1], "torso", "tail"))
    names[levels == -1] = "tail"
    return [str(name) for name in names[place]]


def length_stratum(tokens: int) -> str:
    """``short``, ``medium`` or ``long``."""
    return "short" if tokens <= SHORT_TOKENS else "medium" if tokens <= MEDIUM_TOKENS else "long"


def count_words(text: str) -> int:
    """Words, each CJK character counted as one: an estimate of the tokens without a tokenizer."""
    return len(_WORD.findall(text))


def main_category(snapshot: Snapshot, docs: Int32, column: str = "category") -> str:
    """The top-level category that most of ``docs`` have; ``none`` without documents or column.

    Equal votes go to the category of the better document.
    """
    from searchpipe.catalog.columns import CategoriesColumn, CategoryColumn

    found = snapshot.columns.get(column)
    if not len(docs) or not isinstance(found, CategoriesColumn | CategoryColumn):
        return "none"
    codes = found.groups(docs, level=0) if isinstance(found, CategoriesColumn) else found.groups(docs)
    votes = Counter(int(code) for code in codes if code >= 0)
    return found.categories[votes.most_common(1)[0][0]] if votes else "none"


def merge_rare(categories: Sequence[str], weights: Sequence[float]) -> list[str]:
    """``categories`` with those of less than :data:`MIN_CATEGORY_SHARE` of the weight called ``other``."""
    totals: Counter[str] = Counter()
    for category, weight in zip(categories, weights, strict=True):
        totals[category] += weight  # type: ignore[assignment]
    least = MIN_CATEGORY_SHARE * sum(weights)
    return [category if totals[category] >= least else "other" for category in categories]


def even_shares(sizes: Sequence[int], total: int) -> NDArray[np.int64]:
    """Divide ``total`` evenly among groups of ``sizes``; what a small group cannot take goes to the others.

    Returns:
        int64 ``(len(sizes),)``, each at most its size; the sum is ``min(total, sum(sizes))``.
    """
    room = np.asarray(sizes, np.int64)
    given = np.zeros(len(room), np.int64)
    left = min(int(total), int(room.sum()))
    while left > 0:
        open_groups = np.flatnonzero(given < room)
        each = left // len(open_groups)
        if each:
            more = np.minimum(each, room[open_groups] - given[open_groups])
        else:
            open_groups = open_groups[:left]
            more = np.ones(left, np.int64)
        given[open_groups] += more
        left -= int(more.sum())
    return given
