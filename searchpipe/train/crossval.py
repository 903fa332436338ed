"""How a scorer's opinion is best blended into an order, chosen by cross-validation over queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from searchpipe.arrays import Array, Float32

GAINS: Mapping[int, float] = {3: 1.0, 2: 0.1, 1: 0.01, 0: 0.0}
"""Official gains of the Shopping Queries data (Reddy et al., arXiv:2206.06588, section 4)."""

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TEMPERATURES = (1.5, 3.0, 6.0)
FOLDS = 5


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """The candidates of one query, best first, with what is known about them.

    Attributes:
        gains: float64 ``(n,)``, 0 where unjudged.
        ideal: gains of all judged products, candidates or not, from the best down.
        prior: float32 ``(n,)``, the score that ordered the candidates, falling.
    """

    gains: Array
    ideal: Array
    prior: Float32

    def ndcg(self, order: Array, at: int = 10) -> float:
        """NDCG of the candidates in this order (places), as trec_eval counts it; 0 with no gain."""
        best = _dcg(self.ideal, at)
        return _dcg(self.gains[order], at) / best if best > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Blend:
    """``weight * sigmoid(logit / temperature) + (1 - weight) * prior``, prior scaled to 0..1."""

    weight: float
    temperature: float

    def order(self, prior: Float32, logits: Float32) -> Array:
        """Places, best first; only the first ``len(logits)`` change places."""
        depth = len(logits)
        head = prior[:depth].astype(np.float64)
        spread = head.max() - head.min()
        scaled = (head - head.min()) / spread if spread > 0 else np.zeros(depth)
        opinion = 1.0 / (1.0 + np.exp(-np.clip(logits / self.temperature, -30.0, 30.0)))
        blended = self.weight * opinion + (1.0 - self.weight) * scaled
        moved = np.argsort(-blended, kind="stable")
        return np.concatenate([moved, np.arange(depth, len(prior))])


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
                query.ndcg(blend.order(query.prior, own[:depth]), at)
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
                [q.ndcg(only.order(q.prior, own[:depth]), at) for q, own in zip(queries, logits, strict=True)]
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
