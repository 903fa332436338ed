"""How a scorer's opinion is best blended into an order, chosen by cross-validation over queries."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Array, Float32

GAINS: Mapping[int, float] = {3: 1.0, 2: 0.1, 1: 0.01, 0: 0.0}
"""Official gains of the Shopping Queries data (Reddy et al., arXiv:2206.06588, section 4)."""

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TEMPERATURES = (0.75, 1.0, 1.5, 2.0, 3.0, 6.0)
FOLDS = 5


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """The candidates of one query, best first, with what is known about them.

    Attributes:
        gains: float64 ``(n,)``, 0 where unjudged.
        ideal: gains of all judged products, candidates or not, from the best down.
    """

    gains: Array
    ideal: Array

    def ndcg(self, order: Array, at: int = 10) -> float:
        """NDCG of the candidates in this order (places), as trec_eval counts it; 0 with no gain."""
        best = _dcg(self.ideal, at)
        return _dcg(self.gains[order], at) / best if best > 0 else 0.0


def grades_of(labels: Path) -> dict[str, dict[str, int]]:
    """Query id -> product id -> grade, of a file ``query, product, grade`` separated by tabs; .gz or not."""
    grades: dict[str, dict[str, int]] = {}
    with gzip.open(labels, "rt", encoding="utf-8") if labels.suffix == ".gz" else labels.open() as file:
        for line in file:
            query, product_id, grade = line.rstrip("\n").split("\t")
            grades.setdefault(query, {})[product_id] = int(grade)
    return grades


def judged_query(products: Sequence[str], grades: Mapping[str, int]) -> JudgedQuery:
    """A query's candidates, best first, by the grades of all its judged products."""
    gains = np.array([GAINS[grades.get(product_id, 0)] for product_id in products], np.float64)
    return JudgedQuery(gains, np.sort([GAINS[grade] for grade in grades.values()])[::-1])


@dataclass(frozen=True, slots=True)
class Blend:
    """What :class:`searchpipe.stages.score.Score` makes of logits.

    ``weight * sigmoid(logit / temperature) + (1 - weight) * place``, place falling from 1 at the first
    candidate by ``1 / depth`` a place; candidates without a logit stay behind, in their order.
    """

    weight: float
    temperature: float

    def order(self, count: int, logits: Float32, depth: int) -> Array:
        """Places, best first, of ``count`` candidates; ``logits`` of the first ones, NaN where unscored."""
        head = logits[: min(depth, count)]
        scored = np.flatnonzero(np.isfinite(head))
        opinion = 1.0 / (1.0 + np.exp(-np.clip(head[scored] / self.temperature, -30.0, 30.0)))
        blended = self.weight * opinion + (1.0 - self.weight) * (1.0 - scored / depth)
        moved = scored[np.argsort(-blended, kind="stable")]
        return np.concatenate([moved, np.setdiff1d(np.arange(count), scored)])


def grid() -> list[Blend]:
    """Every blend tried, the lightest first."""
    return [Blend(weight, temperature) for weight, temperature in product(WEIGHTS, TEMPERATURES)]


def cross_validated(
    queries: Sequence[JudgedQuery], logits: Sequence[Float32], depth: int, *, seed: int, at: int = 10
) -> dict[str, Any]:
    """What a scorer is worth at a depth.

    Returns:
        ``ndcg`` of each query where its blend was chosen on the other folds, ``chosen`` per
        fold, ``all``: the blend that is best over all queries (to be shipped) and its mean,
        ``alone``: mean without any blending, ``table``: mean by blend.
    """
    blends = grid()
    values = np.array(
        [
            [
                query.ndcg(blend.order(len(query.gains), own, depth), at)
                for query, own in zip(queries, logits, strict=True)
            ]
            for blend in blends
        ]
    )
    fold = np.random.default_rng(seed).permutation(len(queries)) % FOLDS
    honest = np.empty(len(queries))
    chosen = []
    for held in range(FOLDS):
        best = int(values[:, fold != held].mean(axis=1).argmax())
        chosen.append({"weight": blends[best].weight, "temperature": blends[best].temperature})
        honest[fold == held] = values[best, fold == held]
    best = int(values.mean(axis=1).argmax())
    only = Blend(1.0, 3.0)
    return {
        "ndcg": honest.tolist(),
        "mean": float(honest.mean()),
        "chosen": chosen,
        "all": {
            "weight": blends[best].weight,
            "temperature": blends[best].temperature,
            "mean": float(values[best].mean()),
        },
        "alone": float(
            np.mean(
                [
                    q.ndcg(only.order(len(q.gains), own, depth), at)
                    for q, own in zip(queries, logits, strict=True)
                ]
            )
        ),
        "table": {
            f"{b.weight:g}/{b.temperature:g}": float(v)
            for b, v in zip(blends, values.mean(axis=1), strict=True)
        },
    }


def difference(
    first: Sequence[float], second: Sequence[float], *, seed: int, rounds: int = 5000
) -> dict[str, float]:
    """Mean of ``first - second`` over the queries with its 95% bootstrap interval."""
    gaps = np.asarray(first) - np.asarray(second)
    draws = np.random.default_rng(seed).integers(len(gaps), size=(rounds, len(gaps)))
    low, high = np.quantile(gaps[draws].mean(axis=1), (0.025, 0.975))
    return {"mean": float(gaps.mean()), "low": float(low), "high": float(high)}


def _dcg(gains: Array, at: int) -> float:
    top = np.asarray(gains[:at], np.float64)
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())
