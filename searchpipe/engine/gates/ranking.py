"""How much of an order survives: measures of one query's scores, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from searchpipe.arrays import Bool, Float32


def auc(scores: Float32, relevant: Bool) -> float:
    """Chance that a relevant document scores above another one, ties counted half (Hanley, McNeil 1982).

    Args:
        scores: float32 ``(n,)``.
        relevant: bool ``(n,)``.

    Returns:
        0 to 1; NaN where all documents are relevant, or none.
    """
    positives = int(np.count_nonzero(relevant))
    negatives = len(relevant) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # The mean rank (from 1) of all documents with one score.
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(ranks[place][relevant].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def kendall_tau(first: Float32, second: Float32) -> float:
    """Kendall's tau-b of two score lists, float32 ``(n,)`` each; NaN where one of them is constant."""
    pairs = np.triu_indices(len(first), 1)
    one = np.sign(np.subtract.outer(first, first)[pairs])
    two = np.sign(np.subtract.outer(second, second)[pairs])
    untied = np.sqrt(float(np.count_nonzero(one)) * float(np.count_nonzero(two)))
    return float((one * two).sum() / untied) if untied else float("nan")


def top(scores: Float32, k: int) -> NDArray[np.intp]:
    """Places of the ``k`` best, the best first; equal scores in their order."""
    return np.argsort(-scores, kind="stable")[:k]
