"""Training lists of the feature ranker: a query's candidates with their features and what they are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.arrays import Array, Float32, Int64
from searchpipe.train.crossval import GAINS
from searchpipe.train.texts import read_lines

if TYPE_CHECKING:
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.recalled import Recalled
    from searchpipe.stages.ranker_inputs import RankerInputs

MAX_WEIGHT = 10.0
"""Of one click: rare clicks far down would outweigh everything else."""


@dataclass(frozen=True, slots=True)
class RankingList:
    """One query's candidates, in the fused order.

    Attributes:
        query: text.
        products: ids.
        categories: int64 ``[n, c]``.
        dense: float32 ``[n, d]``.
        worth: float32 ``[n]``, gains of labels or weights of clicks; 0 for what is neither.
        weight: of the list: searches that it stands for.
    """

    query: str
    products: tuple[str, ...]
    categories: Int64
    dense: Float32
    worth: Float32
    weight: float = 1.0


class ListMaker:
    """Turns queries into lists. One thread."""

    def __init__(self, snapshot: Snapshot, recalled: Recalled, inputs: RankerInputs) -> None:
        self._snapshot = snapshot
        self._recalled = recalled
        self._inputs = inputs

    def make(
        self, text: str, worth: Mapping[str, float], context: Mapping[str, Any] | None = None
    ) -> RankingList | None:
        """A list, or None where recall finds nothing."""
        work = self._recalled.work(text, context)
        if work is None or work.candidates is None or not len(work.candidates):
            return None
        products = tuple(self._snapshot.id_of(work.candidates.docs))
        feeds = self._inputs.feeds(work)
        values = np.array([worth.get(product, 0.0) for product in products], np.float32)
        return RankingList(text, products, feeds["categories"], feeds["dense"], values)


def from_labels(
    maker: ListMaker, queries: Sequence[tuple[str, str]], grades: Mapping[str, Mapping[str, int]]
) -> Iterator[RankingList]:
    """A list for each ``(id, text)``, worth by the official gains of its grades."""
    for query_id, text in queries:
        gains = {product: GAINS[grade] for product, grade in grades.get(query_id, {}).items()}
        made = maker.make(text, gains)
        if made is not None:
            yield made


def from_clicks(maker: ListMaker, log: Path, *, eta: float, limit: int) -> Iterator[RankingList]:
    """A list for each search of a log that has clicks on what recall finds.

    Rows: ``query``, ``clicks`` (product ids), optionally ``context`` and ``shown`` (ids in the order of
    the page). People click what stands on top whatever it is: where ``shown`` tells the position (from
    1), a click counts ``position ** eta`` times, the inverse of the propensity ``position ** -eta`` of
    being looked at (Joachims et al., arXiv:1608.04468, section 5), at most :data:`MAX_WEIGHT`.
    No position is a feature, so none has to be made up when the ranker serves.
    """
    count = 0
    for row in read_lines(log):
        clicks = [str(product) for product in row.get("clicks") or ()]
        if not clicks or count == limit:
            continue
        made = maker.make(str(row["query"]), click_weights(clicks, row.get("shown"), eta), row.get("context"))
        if made is not None and made.worth.any():
            count += 1
            yield made


def click_weights(clicks: Sequence[str], shown: Sequence[str] | None, eta: float) -> dict[str, float]:
    """Weight by clicked product; 1 where its position is not known."""
    places = {str(product): place for place, product in enumerate(shown or (), 1)}
    weights: Counter[str] = Counter()
    for product in clicks:
        weights[product] += min(MAX_WEIGHT, float(places.get(product, 1)) ** eta)
    return dict(weights)


def ndcg(order: Array, worth: Array, ideal: Array, at: int = 10) -> float:
    """NDCG of the candidates in this order; ``ideal``: all worth there is, the most first. 0 without any."""
    discounts = 1.0 / np.log2(np.arange(2, at + 2))
    best = float((ideal[:at] * discounts[: len(ideal[:at])]).sum())
    top = worth[order[:at]]
    return float((top * discounts[: len(top)]).sum()) / best if best > 0 else 0.0
